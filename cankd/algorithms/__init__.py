"""Distillation algorithms that mmrazor lacks."""
