"""`python -m smft_lab.cli` is `smft-lab`; by this name `torchrun` starts it."""

from smft_lab.cli.app import main

if __name__ == "__main__":
    main()
