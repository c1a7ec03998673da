"""The stage distill: component.py is its KFP face, stage.py its work."""
