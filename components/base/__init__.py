"""The stage base: component.py is its KFP face, stage.py its work."""
