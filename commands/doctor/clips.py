"""Clips that published weights were trained on, beside those of params.yaml."""

from commands.doctor.finding import HINT, OK, Finding, Findings
from stages.params import Params

# Frames, height and width in px, frames per second: torchvision's own documentation of its weights.
KINETICS_CLIPS = {
    **dict.fromkeys(("r3d_18", "mc3_18", "r2plus1d_18"), (16, 112, 15.0)),
    "s3d": (128, 224, 15.0),
    "mvit_v2_s": (16, 224, 7.5),
    "swin3d_t": (32, 224, 15.0),
}


def clips_of_weights(params: Params) -> Findings:
    """Compare the clips with those that the weights of each model were trained on."""
    if params.init_model.weights != "kinetics400":
        return
    clips = params.clips
    for model in params.models:
        if model not in KINETICS_CLIPS:
            continue
        frames, side, fps = KINETICS_CLIPS[model]
        wanted = {"frames": frames, "height": side, "width": side, "fit": "crop"}
        wanted |= {"sampling": "dense", "fps": fps}
        subject = f"clips of {model}"
        if all(getattr(clips, name) == value for name, value in wanted.items()):
            yield Finding(OK, subject, "those that its weights were trained on")
            continue
        lines = ", ".join(f"{name}: {value}" for name, value in wanted.items())
        yield Finding(
            HINT,
            subject,
            "not those that its weights were trained on",
            f"set clips: {{{lines}}}, which suit them best",
        )
