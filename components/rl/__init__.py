"""The stage rl: component.py is its KFP face, stage.py its work."""
