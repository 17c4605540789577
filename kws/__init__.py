"""Speech commands, from raw audio to a Raspberry Pi: the package under the course. Names are imported when they are used."""

import lazy_loader

__version__ = "1.0.0"

__getattr__, __dir__, __all__ = lazy_loader.attach(
    __name__,
    submod_attrs={
        "audio": ["read_clip"],
        "preprocess": ["FEATURES", "log_mel"],
        "zoo": ["ZOO"],
        "infra.corpora": ["make_manifest"],
        "infra.runs": ["Options", "train"],
        "inference": ["load_predictor", "predict_clips"],
        "metrics": ["score"],
        "pretrained": ["load_pretrained"],
        "submission": ["check_submission"],
        "pi": ["KeywordDetector"],
    },
)
