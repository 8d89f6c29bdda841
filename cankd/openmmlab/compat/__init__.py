"""Makes the released mmrazor run on the installed libraries: the patches, and all questions about versions."""

from cankd.openmmlab.compat import patches
from cankd.openmmlab.compat.patches import quiet_imports
from cankd.openmmlab.compat.versions import (
    CLASSIFICATION,
    RGB_FLAGS,
    TESTED,
    check_installed,
    classification_sample,
    configs_folder,
    label_of,
    module_of,
    own_config,
    shipped_config,
)

__all__ = [
    "CLASSIFICATION",
    "RGB_FLAGS",
    "TESTED",
    "classification_sample",
    "configs_folder",
    "label_of",
    "module_of",
    "own_config",
    "prepare",
    "quiet_imports",
    "shipped_config",
]


def prepare() -> None:
    """Makes mmrazor importable and registers its modules.

    Raises:
        ImportError: if a library is missing; the message says how to install it.
    """
    check_installed()
    from cankd.openmmlab.compat import safe_pickle  # needs the libraries

    patches.map_distribution_names()
    patches.translate_classification()
    patches.find_shipped_configs()
    patches.format_a_configuration_once()
    patches.refuse_installations()
    patches.import_mmrazor()
    patches.flatten_maps_of_any_layout()
    safe_pickle.register_safe_globals()
