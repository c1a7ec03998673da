"""The stage prepare: component.py is its KFP face, stage.py its work."""
