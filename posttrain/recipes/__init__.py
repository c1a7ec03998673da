"""Recipes: DAGs of stages as YAML. The named ones lie beside this file."""
