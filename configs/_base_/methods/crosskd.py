# CrossKD alone, with the published weights (arXiv 2306.11369).
method = dict(type="CrossKD", distiller=dict(_delete_=True, type="ConfigurableDistiller"))
