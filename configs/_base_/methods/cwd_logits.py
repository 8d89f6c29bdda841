# CWD on a segmenter's class scores, as mmrazor configures it (arXiv 2011.13256).
method = dict(
    distiller=dict(
        _delete_=True,
        type="ConfigurableDistiller",
        student_recorders=dict(logits=dict(type="ModuleOutputs", source="decode_head.conv_seg")),
        teacher_recorders=dict(logits=dict(type="ModuleOutputs", source="decode_head.conv_seg")),
        distill_losses=dict(loss_logits=dict(type="ChannelWiseDivergence", tau=1, loss_weight=5)),
        loss_forward_mappings=dict(
            loss_logits=dict(
                preds_S=dict(recorder="logits", from_student=True),
                preds_T=dict(recorder="logits", from_student=False),
            )
        ),
    )
)
