"""Groups of devices that a collective's text names."""

import math
import re

import numpy as np

Groups = tuple[tuple[int, ...], ...]


def replica_groups(rest: str, devices: int) -> Groups:
    """Groups of devices, or the (source, target) pairs of a permute.

    XLA writes groups in three forms: {{0,1},{2,3}}; [2,4]<=[4,2]T(1,0), an iota
    reshaped, transposed and reshaped; mesh['x'=2,'y'=4] {'y'}, axes of a mesh.
    Where none are written, all devices are one group.

    Raises:
      ValueError: another form.
    """
    pairs = re.search(r"(?:source_target_pairs|replica_groups)=\{(\{.*?\})\}", rest)
    if pairs:
        return tuple(
            tuple(int(n) for n in group.split(","))
            for group in re.findall(r"\{([\d,]+)\}", pairs.group(1))
        )
    iota = re.search(
        r"replica_groups=\[([\d,]+)\]<=\[([\d,]+)\](?:T\(([\d,]+)\))?", rest
    )
    if iota:
        shape, source = ([int(n) for n in x.split(",")] for x in iota.group(1, 2))
        order = [int(n) for n in iota.group(3).split(",")] if iota.group(3) else None
        ids = np.arange(math.prod(source)).reshape(source).transpose(order)
        return tuple(map(tuple, ids.reshape(shape).tolist()))
    named = re.search(r"replica_groups=mesh\[([^\]]*)\][^{]*\{([^}]*)\}", rest)
    if named:
        sizes = {a: int(n) for a, n in re.findall(r"'(\w+)'=(\d+)", named.group(1))}
        return _mesh_groups(sizes, named.group(2))
    if "replica_groups={}" in rest or "replica_groups" not in rest:
        return (tuple(range(devices)),)
    form = rest[rest.index("replica_groups") :][:60]
    raise ValueError(f"{form!r}: this form of replica groups cannot be read yet")


def _mesh_groups(sizes: dict[str, int], axes: str) -> Groups:
    """Groups over mesh axes 'y', or over parts of axes 'y':(before)size.

    Shardy's sub-axes: https://openxla.org/shardy/sharding_representation.
    """
    shape: list[int] = []
    group_dims: list[int] = []
    parts = {
        a: (int(before), int(size)) if size else None
        for a, before, size in re.findall(r"'(\w+)'(?::\((\d+)\)(\d+))?", axes)
    }
    for axis, n in sizes.items():
        part = parts.get(axis, (1, 1))
        before, size = (1, n) if part is None else part
        group_dims.append(len(shape) + 1)
        shape += [before, size, n // before // size]
        if axis not in parts:
            group_dims.pop()
    ids = np.arange(math.prod(sizes.values())).reshape(shape)
    others = [i for i in range(ids.ndim) if i not in group_dims]
    group_size = math.prod(shape[i] for i in group_dims)
    groups = ids.transpose(others + group_dims).reshape(-1, group_size)
    return tuple(map(tuple, groups.tolist()))
