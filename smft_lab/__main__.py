"""`python -m smft_lab` is `smft-lab`."""

from smft_lab.cli import main

if __name__ == "__main__":
    main()
