"""The stage data_version: component.py is its KFP face, stage.py its work."""

from posttrain.components.lazy import component_of

__getattr__ = component_of(__name__)
