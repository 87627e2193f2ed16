"""All experiments by name, in the order of the page."""

from smft_lab.reproduce.beyond import BEYOND
from smft_lab.reproduce.paper import PAPER
from smft_lab.reproduce.scale import SCALE

EXPERIMENTS = {experiment.name: experiment for experiment in (*PAPER, *BEYOND, SCALE)}
