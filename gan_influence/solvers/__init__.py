"""Solvers of AID's linear equations, one a file, behind one protocol: :mod:`gan_influence.solvers.protocol`.

Give :func:`gan_influence.aid` one with its settings, or one of your own with the same method ``solve``:

    >>> import gan_influence as gi
    >>> gi.solvers.Neumann(terms=[10, 1000], scale=0.05)
    Neumann(terms=(10, 1000), tolerance=None, scale=0.05)
    >>> gi.solvers.GMRES(products=200)
    GMRES(products=200, tolerance=None)

Which one? In a game of several players the matrix is not symmetric: :class:`Neumann` is the papers', :class:`GMRES` its
limit. For one player it is a Hessian, or with ``curvature="gauss_newton"`` one that is never indefinite: :class:`CG`
takes the fewest products, :class:`LiSSA` and :class:`Momentum` are published ways of solving it roughly.
:class:`NormalEquations` takes any matrix, at the square of its condition number.
"""

from gan_influence.solvers.cg import CG
from gan_influence.solvers.gmres import GMRES
from gan_influence.solvers.lissa import LiSSA
from gan_influence.solvers.momentum import Momentum
from gan_influence.solvers.neumann import Neumann
from gan_influence.solvers.normal_equations import NormalEquations
from gan_influence.solvers.protocol import Operator, Solution, Solver

__all__ = ["CG", "GMRES", "LiSSA", "Momentum", "Neumann", "NormalEquations", "Operator", "Solution", "Solver"]
