"""The paper's figures and tables at lab scale: jobs.py runs one setting, sweep.py many, experiments.py says which."""
