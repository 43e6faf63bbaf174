"""Explanations in other packages: a module for each, called after it, which imports it when it is used."""
