"""One file for each family of models: a `FAMILY`, and where its facts come from."""
