"""The stage student: component.py is its KFP face, stage.py its work."""
