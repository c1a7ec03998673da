"""The stage rollout: component.py is its KFP face, stage.py its work."""
