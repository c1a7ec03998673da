"""The stage report: component.py is its KFP face, stage.py its work."""
