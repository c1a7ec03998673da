"""The images that the components run on unless a pipeline or a run says otherwise."""

from posttrain import __version__

CONTROL = f"posttrain/control-python:{__version__}"
TRAIN = f"posttrain/train-python:{__version__}"
