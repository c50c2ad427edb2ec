"""A notebook's kernel: on Linux forked off one process that has imported the large packages already.

They take six seconds of every kernel's start otherwise. `lib` is not among them: each kernel reads it as it
is then. Elsewhere a kernel starts as Jupyter starts it.
"""

import multiprocessing
import os
import signal
import sys
from importlib.metadata import EntryPoint
from multiprocessing import forkserver
from multiprocessing.context import ForkServerProcess
from pathlib import Path
from typing import Any, ClassVar

from jupyter_client.provisioning import KernelProvisionerFactory, LocalProvisioner
from traitlets import Dict
from traitlets.config import Config

from lib.files import in_project
from lib.parallel import watch_parent
from lib.progress import VARIABLE

LARGE_PACKAGES = ["torch", "pandas", "scipy.ndimage", "scipy.stats", "matplotlib.pyplot", "seaborn"]
LARGE_PACKAGES += ["ipykernel.kernelapp", "ipywidgets"]
# sets have the same order in every run; debugpy does not warn of modules without source; figures are outputs
ENVIRONMENT = {"PYTHONHASHSEED": "0", "PYDEVD_DISABLE_FILE_VALIDATION": "1"}
ENVIRONMENT["MPLBACKEND"] = "module://matplotlib_inline.backend_inline"
LAUNCHER = "ipykernel_launcher"
KILL = getattr(signal, "SIGKILL", signal.SIGTERM)  # Windows has no SIGKILL


class ForkedKernel(ForkServerProcess):
    """A kernel's process with what Jupyter wants of a Popen."""

    stdin = stdout = stderr = None

    def poll(self) -> int | None:
        return self.exitcode

    def wait(self) -> int | None:
        self.join()
        return self.exitcode


class Provisioner(LocalProvisioner):
    """Starts a kernel in the project's folder, with further variables of the environment."""

    processes: ClassVar[dict] = {}  # of the kernels that were started, by the file of their progress
    environment = Dict(help="variables over those of this process").tag(config=True)

    async def launch_kernel(self, cmd: list[str], **kwargs: Any) -> dict[str, Any]:
        """Start the command's kernel; returns how it is reached."""
        kwargs |= {"env": kwargs["env"] | self.environment, "cwd": str(in_project(".").absolute())}
        if sys.platform.startswith("linux"):
            arguments = cmd[cmd.index(LAUNCHER) + 1 :]
            self.process = ForkedKernel(target=serve, args=(arguments, kwargs["env"], kwargs["cwd"]))
            self.process.start()
            self.pid = self.pgid = self.process.pid
        else:
            await super().launch_kernel(cmd, **kwargs)
        self.processes[self.environment.get(VARIABLE, self.kernel_id)] = self.process
        return self.connection_info


def serve(arguments: list[str], environment: dict[str, str], folder: str) -> None:
    """What a forked process does: it is a kernel until it is told to end, and ends with its parent."""
    import torch
    from ipykernel.kernelapp import launch_new_instance

    os.setsid()  # Ctrl-C is for the runner, which ends its kernels
    os.chdir(folder)
    os.environ.clear()
    os.environ.update(environment)
    watch_parent()
    torch.set_num_threads(int(environment.get("OMP_NUM_THREADS", torch.get_num_threads())))
    sys.argv = [LAUNCHER, *arguments]
    launch_new_instance()
    os._exit(0)  # nothing is left to be done, and no thread to be waited for


def signal_kernels(number: int, words: Path | None = None) -> None:
    """Send a signal to the kernels that run, or to the one that writes its progress to this file."""
    for file, process in list(Provisioner.processes.items()):
        if words in (None, Path(file)) and process.poll() is None:
            os.kill(process.pid, number)


def use_provisioner() -> None:
    """Let Jupyter start its kernels by the Provisioner."""
    os.environ.update(ENVIRONMENT)
    multiprocessing.set_forkserver_preload(LARGE_PACKAGES)
    factory = KernelProvisionerFactory.instance()
    entry = EntryPoint("dose", f"{__name__}:{Provisioner.__name__}", factory.GROUP_NAME)
    factory.provisioners[entry.name], factory.default_provisioner_name = entry, entry.name


def start_server() -> None:
    """Let the process that kernels are forked off import its packages now, before anything else is forked."""
    use_provisioner()
    if sys.platform.startswith("linux"):
        forkserver.ensure_running()


def kernel_config(sockets: dict[str, str], environment: dict[str, str]) -> Config:
    """The settings of a kernel that talks by `sockets` and has these variables."""
    use_provisioner()
    return Config({"KernelManager": sockets, Provisioner.__name__: {"environment": environment}})
