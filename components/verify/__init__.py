"""The stage verify: component.py is its KFP face, stage.py its work."""
