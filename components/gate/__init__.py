"""The stage gate: component.py is its KFP face, stage.py its work."""
