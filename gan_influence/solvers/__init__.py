"""Solvers of AID's linear equations, one a file, behind one protocol: :mod:`gan_influence.solvers.protocol`.

Give :func:`gan_influence.aid` one with its settings, or one of your own with the same method ``solve``:

    >>> import gan_influence as gi
    >>> gi.solvers.Neumann(terms=[10, 1000], scale=0.05)
    Neumann(terms=(10, 1000), tolerance=None, scale=0.05)
    >>> gi.solvers.GMRES(products=200)
    GMRES(products=200, tolerance=None)
"""

from gan_influence.solvers.gmres import GMRES
from gan_influence.solvers.neumann import Neumann
from gan_influence.solvers.protocol import Operator, Solution, Solver

__all__ = ["GMRES", "Neumann", "Operator", "Solution", "Solver"]
