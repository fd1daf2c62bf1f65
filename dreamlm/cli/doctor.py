"""`dreamlm doctor`: what this machine has, and what `auto` chooses on it."""

from typing import Any

from dreamlm.cli.console import Console
from dreamlm.cli.options import JsonOption

_PACKAGES = ("torch", "transformers", "datasets", "tokenizers", "safetensors", "pydantic", "deepspeed", "gigatoken")


def doctor(as_json: JsonOption = False) -> None:
    """Show versions, hardware, and what `auto` chooses here."""
    console = Console(as_json)
    findings = {"versions": _versions(), "machine": _machine(), "auto": _choices()}
    if as_json:
        console.document(findings)
        return
    width = max(len(name) for section in findings.values() for name in section)
    for title, section in findings.items():
        console.result(title)
        for name, value in section.items():
            console.result(f"  {name.ljust(width)}  {'not installed' if value is None else value}")


def _versions() -> dict[str, str | None]:
    import platform
    from importlib.metadata import PackageNotFoundError, version

    from dreamlm import __version__

    found: dict[str, str | None] = {"dreamlm": __version__, "python": platform.python_version()}
    for package in _PACKAGES:
        try:
            found[package] = version(package)
        except PackageNotFoundError:
            found[package] = None
    return found


def _machine() -> dict[str, Any]:
    import platform
    import shutil

    import psutil
    import torch

    from dreamlm.cli.live_line import count

    memory, disk = psutil.virtual_memory(), shutil.disk_usage(".")
    gpus = [torch.cuda.get_device_name(index) for index in range(torch.cuda.device_count())]
    return {
        "system": f"{platform.system()} {platform.machine()}",
        "usable cores": len(psutil.Process().cpu_affinity()) if platform.system() == "Linux" else psutil.cpu_count(),
        "torch threads": torch.get_num_threads(),
        "memory": f"{count(memory.available)}B free of {count(memory.total)}B",
        "disk here": f"{count(disk.free)}B free of {count(disk.total)}B",
        "GPUs": ", ".join(gpus) or "none",
    }


def _choices() -> dict[str, str]:
    import torch

    from dreamlm.core.training.precision import choose_precision

    device = torch.device("cuda" if torch.cuda.is_available() else "cpu")
    precision, reason = choose_precision("auto", device)
    return {
        "device": str(device),
        "precision": f"{precision}: {reason}",
        "backend": "torch in one process, deepspeed in several",
    }
