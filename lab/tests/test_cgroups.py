"""Both layouts of control groups are read from mountinfo."""

from clustermesh_lab.cgroups import Hierarchy, _parse

V1 = """\
30 23 0:26 / /sys/fs/cgroup rw - tmpfs tmpfs rw,mode=755
31 30 0:27 / /sys/fs/cgroup/cpu,cpuacct rw,relatime - cgroup cgroup rw,cpu,cpuacct
32 30 0:28 / /sys/fs/cgroup/systemd rw,relatime - cgroup cgroup rw,xattr,release_agent=/x,name=systemd
33 30 0:29 / /sys/fs/cgroup/unified rw,relatime - cgroup2 cgroup2 rw
34 30 0:27 / /other/cpu rw,relatime - cgroup cgroup rw,cpu,cpuacct
"""
V2 = "30 23 0:26 / /sys/fs/cgroup rw,nosuid - cgroup2 cgroup2 rw,nsdelegate,memory_recursiveprot\n"


def found(text: str) -> list[tuple[str, str]]:
    return [(h.mount.name, h.controllers) for h in _parse(text)]


def test_v1_trees_are_named_as_they_are_mounted():
    assert found(V1) == [("cpu,cpuacct", "cpu,cpuacct"), ("systemd", "name=systemd"), ("unified", "")]


def test_v2_is_one_tree():
    assert found(V2) == [("cgroup", "")]
    assert all(isinstance(h, Hierarchy) and h.is_v2 for h in _parse(V2))
