"""The stage register: component.py is its KFP face, stage.py its work."""
