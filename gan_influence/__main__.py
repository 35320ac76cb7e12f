"""``python -m gan_influence`` is ``gan-influence``."""

from gan_influence.tool import main

if __name__ == "__main__":
    raise SystemExit(main())
