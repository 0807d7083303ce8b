"""The `lab` command."""

from __future__ import annotations

import argparse
import json
import os
import shlex
import sys
import tempfile
from pathlib import Path
from typing import TYPE_CHECKING, Any

from . import build, doctor, places, progress, state
from .errors import LabError
from .topology import Topology, preset_names

if TYPE_CHECKING:
    from collections.abc import Callable

    from .cluster import LabCluster, LabNode
    from .lab import Lab

DESCRIPTION = (
    """Real Kubernetes clusters on this machine: etcd, API server, kubelet, containerd, kube-proxy, CoreDNS."""
)
EXIT_INTERRUPTED = 130
# fault -> what it takes, and what it does
FAULTS: dict[str, tuple[tuple[str, ...], str]] = {
    "kill": (("place", "component"), "SIGKILL a program; its supervisor starts it again"),
    "pause": (("place", "component"), "SIGSTOP a program: it hangs with its connections open"),
    "stop": (("place", "component"), "end a program and hold it down"),
    "resume": (("place", "component"), "undo pause and stop"),
    "cut": (("place",), "take a link down"),
    "delay": (("place", "milliseconds", "loss"), "hold back (and lose) packets of a link"),
    "mend": (("place",), "undo cut and delay"),
    "drop": (("cluster", "other"), "lose every packet between two clusters"),
    "allow": (("cluster", "other"), "undo drop"),
    "off": (("node",), "cut a node's power"),
    "on": (("node",), "power a node on; it comes back with its disks"),
    "clear": ((), "undo every fault"),
}
COMPLETION = """_lab() {{
    local cur=${{COMP_WORDS[COMP_CWORD]}} prev=${{COMP_WORDS[COMP_CWORD-1]}}
    case $prev in
        up) COMPREPLY=($(compgen -W "{presets} --machines" -- "$cur") $(compgen -f -X '!*.y*ml' -- "$cur"));;
        fault) COMPREPLY=($(compgen -W "{faults}" -- "$cur"));;
        -c|--cluster|exec|ssh|logs|kubeconfig|kill|pause|stop|resume|cut|delay|mend|drop|allow|off|on)
            COMPREPLY=($(compgen -W "$(lab places 2>/dev/null)" -- "$cur"));;
        *) COMPREPLY=($(compgen -W "{commands}" -- "$cur"));;
    esac
}}
complete -o default -F _lab lab"""


def main(argv: list[str] | None = None) -> int:
    """Run the command; its exit code."""
    arguments = _parser().parse_args(_guarded(sys.argv[1:] if argv is None else argv))
    progress.report_to(None if getattr(arguments, "quiet", False) else progress.to_stderr)
    try:
        return int(arguments.act(arguments) or 0)
    except LabError as error:
        sys.stderr.write(f"lab: {error}\n")
        return error.exit_code
    except BrokenPipeError:
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
        return 0
    except KeyboardInterrupt:
        sys.stderr.write("lab: interrupted; `lab down` takes away what was started\n")
        return EXIT_INTERRUPTED


def _attach(arguments: argparse.Namespace) -> Lab:
    from .lab import Lab

    return Lab.attach(arguments.lab)


def _up(arguments: argparse.Namespace) -> None:
    from .lab import Lab

    lab = Lab.up(Topology.find(arguments.topology), machines=arguments.machines, name=arguments.lab)
    for cluster in lab.clusters.values():
        print(f"export KUBECONFIG={cluster.kubeconfig}    # {cluster.name}: {', '.join(cluster.nodes)}")


def _down(arguments: argparse.Namespace) -> None:
    from .lab import down

    names = state.labs() if arguments.all else [places.lab_name(arguments.lab)]
    for name in names:
        if not down(name):
            progress.say(f"there is no lab {name}")


def _status(arguments: argparse.Namespace) -> int:
    found = _attach(arguments).status()
    if arguments.json:
        print(json.dumps(found, indent=1))
    else:
        _print_status(found)
    whole = all(c["ready"] and all(n["ready"] for n in c["nodes"].values()) for c in found["clusters"].values())
    return 0 if whole else 1


def _print_status(found: dict[str, Any]) -> None:
    print(f"lab {found['lab']}{' with machines' if found['machines'] else ''}")
    for name, cluster in found["clusters"].items():
        print(f"  {name}  {'ready' if cluster['ready'] else 'NOT READY'}  {cluster['api']}")
        print(f"    pods {', '.join(cluster['pods'])}  services {', '.join(cluster['services'])}")
        for node, facts in cluster["nodes"].items():
            word = "Ready" if facts["ready"] else "NotReady" if facts["on"] else "off"
            print(f"    {node}  {word}  {', '.join(facts['addresses'])}  pods {', '.join(facts['pods']) or '-'}")


def _places(arguments: argparse.Namespace) -> None:
    for cluster in _attach(arguments).clusters.values():
        print(cluster.name)
        for node in cluster.nodes:
            print(f"{cluster.name}/{node}")


def _list(_: argparse.Namespace) -> None:
    for name in state.labs():
        record = state.Store(name).read()
        whole = record is not None and record.is_complete and record.is_from_this_boot()
        clusters = ", ".join(c.name for c in record.topology.clusters) if record else "-"
        print(f"{name}\t{'up' if whole else 'broken (lab down)'}\t{clusters}")


def _become(argv: list[str], env: dict[str, str] | None = None) -> None:
    """Be that program from here on: its terminal, signals and exit code are ours."""
    sys.stdout.flush()
    os.execvpe(argv[0], argv, env or dict(os.environ))  # noqa: S606


def _kubectl(arguments: argparse.Namespace) -> None:
    cluster = _attach(arguments).cluster(arguments.cluster)
    env = os.environ | {"KUBECONFIG": str(cluster.kubeconfig)}
    _become([*build.program("kubectl"), *_after_dashes(arguments.rest)], dict(env))


def _e2e(arguments: argparse.Namespace) -> None:
    from . import e2e

    cluster = _attach(arguments).cluster(arguments.cluster)
    build.ensure((e2e.COMPONENT,))
    _become(e2e.command_line(cluster, arguments.output, _after_dashes(arguments.rest)))


def _ssh(arguments: argparse.Namespace) -> None:
    machine = _attach(arguments).node(arguments.target).machine
    command = _after_dashes(arguments.rest)
    line = command[0] if len(command) == 1 else shlex.join(command)  # one word may be a whole script, as with ssh
    _become(machine.ssh_command([line] if line else ()))


def _guarded(argv: list[str]) -> list[str]:
    """The command line with kubectl's own options kept from our parser: what follows `-c CLUSTER` is kubectl's."""
    if "kubectl" in argv:
        start = argv.index("kubectl") + 1
        end = start + (2 if argv[start : start + 1] in (["-c"], ["--cluster"]) else 1)
        if len(argv) > end and argv[start].startswith(("-c", "--cluster")) and argv[end] != "--":
            return [*argv[:end], "--", *argv[end:]]
    return argv


def _after_dashes(rest: list[str]) -> list[str]:
    return rest[1:] if rest[:1] == ["--"] else rest


def _exec(arguments: argparse.Namespace) -> None:
    lab = _attach(arguments)
    command = _after_dashes(arguments.rest) or ["bash"]
    if "/" in arguments.target:
        _become(lab.node(arguments.target).enter_command(command))
    cluster = lab.cluster(arguments.target)
    _become(["nsenter", f"--net={cluster.netns_path}", *command])


def _logs(arguments: argparse.Namespace) -> None:
    lab = _attach(arguments)
    place: LabNode | LabCluster
    place = lab.node(arguments.target) if "/" in arguments.target else lab.cluster(arguments.target)
    known = sorted(f.stem for f in place.logs.glob("*.log") if f.stem != "audit")
    if arguments.component not in known:
        found = f"no log of {arguments.component!r}" if arguments.component else "which component?"
        raise LabError(f"{arguments.target}: {found}", do=f"there are {', '.join(known) or 'none yet'}", exit_code=2)
    follow = ["-F"] if arguments.follow else []
    _become(["tail", "-n", str(arguments.lines), *follow, str(place.logs / f"{arguments.component}.log")])


def _kubeconfig(arguments: argparse.Namespace) -> None:
    cluster = _attach(arguments).cluster(arguments.cluster)
    path = cluster.client(arguments.user, arguments.group) if arguments.user else cluster.kubeconfig
    print(path)


def _inventory(arguments: argparse.Namespace) -> None:
    from . import inventory

    print(inventory.text(_attach(arguments)), end="")


def _image(arguments: argparse.Namespace) -> None:
    from . import images

    settings = images.Settings(tuple(arguments.entrypoint), tuple(arguments.cmd), tuple(arguments.env), arguments.user)
    with tempfile.TemporaryDirectory() as work:
        out = arguments.output or Path(work) / "image.tar"
        images.write_image(out, arguments.name, arguments.directory, settings)
        if not arguments.output:
            with progress.step(f"loaded {arguments.name}"):
                _attach(arguments).load_image(out)


def _fault(arguments: argparse.Namespace) -> None:
    fault = _attach(arguments).fault
    getattr(fault, arguments.fault)(*(getattr(arguments, name) for name in arguments.takes))


def _completion(_: argparse.Namespace) -> None:
    names = " ".join(_command_names(_parser()))
    print(COMPLETION.format(commands=names, faults=" ".join(FAULTS), presets=" ".join(preset_names())))


def _command_names(parser: argparse.ArgumentParser) -> list[str]:
    for action in parser._actions:  # noqa: SLF001
        if isinstance(action, argparse._SubParsersAction):  # noqa: SLF001
            return list(action.choices)
    return []


def _doctor(arguments: argparse.Namespace) -> int:
    found = doctor.examine(machines=arguments.machines, calico=arguments.calico)
    for finding in found:
        print(f"missing: {finding.what}: {finding.remedy}")
    absent = build.missing()
    print(f"programs to build: {', '.join(absent) or 'none'}")
    if not found:
        print("this machine has all the lab needs")
    return 3 if found else 0


def _setup(_: argparse.Namespace) -> int:
    left = doctor.setup()
    for finding in left:
        print(f"still missing: {finding.what}: {finding.remedy}")
    return 3 if left else 0


def _build(arguments: argparse.Namespace) -> None:
    names = tuple(arguments.component) or (*build.EVERY_LAB, "calico")
    build.ensure(names)
    for name in names:
        print(f"{name}\t{build.version(name)}\t{build.directory(name)}")


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(prog="lab", description=DESCRIPTION)
    parser.add_argument("--lab", metavar="NAME", help='the lab that is meant ($CLUSTERMESH_LAB, else "default")')
    parser.add_argument("-q", "--quiet", action="store_true", help="no progress lines")
    commands = parser.add_subparsers(title="commands", metavar="COMMAND", required=True)

    def command(
        name: str, act: Callable[[argparse.Namespace], object], text: str, example: str = ""
    ) -> argparse.ArgumentParser:
        sub = commands.add_parser(
            name,
            help=text,
            description=text,
            epilog=f"example:\n  {example}" if example else None,
            formatter_class=argparse.RawDescriptionHelpFormatter,
        )
        sub.add_argument("--lab", metavar="NAME", default=argparse.SUPPRESS, help=argparse.SUPPRESS)
        sub.set_defaults(act=act)
        return sub

    sub = command("up", _up, "bring a lab up, or what is missing of it", "lab up demo --machines")
    presets = f"preset ({', '.join(preset_names())}) or YAML file (default: demo)"
    sub.add_argument("topology", nargs="?", default="demo", help=presets)
    sub.add_argument("--machines", action="store_true", help="nodes are also machines with systemd and sshd")
    sub = command("down", _down, "take a lab away, whole or broken, and leave nothing", "lab --lab ci down")
    sub.add_argument("--all", action="store_true", help="every lab of this machine")
    sub = command("status", _status, "what runs; exit code 1 unless all of it is ready", "lab status --json")
    sub.add_argument("--json", action="store_true", help="for programs")
    command("list", _list, "the labs of this machine")
    sub = command("kubectl", _kubectl, "kubectl as cluster admin", "lab kubectl -c east get pods -A")
    sub.add_argument("-c", "--cluster", required=True, help="cluster")
    sub.add_argument("rest", nargs=argparse.REMAINDER, metavar="ARGUMENTS", help="arguments of kubectl")
    sub = command(
        "exec",
        _exec,
        "run a program inside a node, or in the network namespace of a control plane",
        "lab exec east/n1 -- ctr containers list\n  lab exec east/n1 -- nft list ruleset",
    )
    sub.add_argument("target", metavar="CLUSTER[/NODE]")
    sub.add_argument("rest", nargs=argparse.REMAINDER, metavar="-- PROGRAM", help="default: a shell")
    sub = command(
        "ssh", _ssh, "log in to a node's machine as root, or run a program there", "lab ssh east/n1 -- uptime"
    )
    sub.add_argument("target", metavar="CLUSTER/NODE")
    sub.add_argument("rest", nargs=argparse.REMAINDER, metavar="-- PROGRAM", help="default: a login shell")
    sub = command("logs", _logs, "log of a component", "lab logs east/n1 kubelet -f\n  lab logs east kube-apiserver")
    sub.add_argument("target", metavar="CLUSTER[/NODE]")
    sub.add_argument("component", nargs="?", default="")
    sub.add_argument("-f", "--follow", action="store_true", help="as it grows")
    sub.add_argument("-n", "--lines", type=int, default=200, help="last lines (default: %(default)s)")
    sub = command("kubeconfig", _kubeconfig, "path of a kubeconfig", "lab kubeconfig east --user bob --group devs")
    sub.add_argument("cluster")
    sub.add_argument("--user", help="of this user instead of the cluster admin")
    sub.add_argument("--group", action="append", default=[], help="group of that user (may be repeated)")
    command("places", _places, "names of clusters and nodes, for scripts")
    command("inventory", _inventory, "Ansible inventory of clusters and machines", "lab inventory > inventory.yml")
    sub = command(
        "image",
        _image,
        "make an image of a directory and load it on every node",
        "lab image lab.local/web:1 ./root --entrypoint /web",
    )
    sub.add_argument("name", metavar="NAME:TAG")
    sub.add_argument("directory", type=Path)
    sub.add_argument("--entrypoint", nargs="+", default=[], help="program and first arguments")
    sub.add_argument("--cmd", nargs="+", default=[], help="default arguments")
    sub.add_argument("--env", action="append", default=[], metavar="NAME=VALUE")
    sub.add_argument("--user", default="", help="user id")
    sub.add_argument("-o", "--output", type=Path, help="write the archive there instead of loading it")
    sub = command(
        "fault", _fault, "make or undo a fault", "lab fault stop east/n1 kubelet\n  lab fault drop east west"
    )
    _add_faults(sub)
    sub = command("doctor", _doctor, "what this machine lacks, and how to get it")
    sub.add_argument("--machines", action="store_true", help="for `lab up --machines` too")
    sub.add_argument("--calico", action="store_true", help="for clusters with Calico too")
    command("setup", _setup, "install what is missing (Debian, Ubuntu)")
    sub = command("build", _build, "build programs now", "lab build\n  lab build e2e")
    sub.add_argument("component", nargs="*", help=f"of {', '.join(build.components())} (default: what the tests need)")
    sub = command(
        "e2e",
        _e2e,
        "Kubernetes' own suite against a cluster; without flags that of network policy",
        "lab e2e west\n  lab e2e -o build/report west -- --ginkgo.focus=default-deny",
    )
    sub.add_argument("-o", "--output", type=Path, metavar="DIR", help="JUnit reports there")
    sub.add_argument("cluster")
    sub.add_argument("rest", nargs=argparse.REMAINDER, metavar="-- FLAGS", help="flags of the suite's program")
    sub = command("completion", _completion, "shell completion", 'eval "$(lab completion bash)"')
    sub.add_argument("shell", choices=["bash"])
    return parser


def _add_faults(parser: argparse.ArgumentParser) -> None:
    texts = {
        "place": "CLUSTER/NODE, or CLUSTER for its control plane",
        "component": "as `lab logs` lists them",
        "cluster": "cluster",
        "other": "the other cluster",
        "node": "CLUSTER/NODE",
        "milliseconds": "in each direction",
        "loss": "percent of packets lost (default: 0)",
    }
    kinds = parser.add_subparsers(metavar="FAULT", required=True)
    for name, (takes, text) in FAULTS.items():
        sub = kinds.add_parser(name, help=text, description=text)
        sub.set_defaults(fault=name, takes=takes)
        for argument in takes:
            if argument == "loss":
                sub.add_argument("loss", type=float, nargs="?", default=0.0, help=texts[argument])
            else:
                kind = float if argument == "milliseconds" else str
                sub.add_argument(argument, type=kind, help=texts[argument])


if __name__ == "__main__":
    sys.exit(main())
