"""The stage sft: component.py is its KFP face, stage.py its work."""
