"""The stage evaluate: component.py is its KFP face, stage.py its work."""
