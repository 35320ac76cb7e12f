Penalty = object


def checked(p):
    return tuple(p)


def added(costs, *a):
    return costs
