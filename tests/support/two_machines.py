"""A stand-in for `srun --ntasks-per-node=1` on two machines: the command twice, the second later.

python two_machines.py COMMAND …
"""

import signal
import subprocess
import sys
import time

processes = []


def pass_on(number: int, frame: object) -> None:
    for process in processes:
        process.send_signal(number)


for number in (signal.SIGTERM, signal.SIGINT, signal.SIGUSR1):
    signal.signal(number, pass_on)
for _ in range(2):
    processes.append(subprocess.Popen(sys.argv[1:]))
    time.sleep(0.5)
sys.exit(max(abs(process.wait()) for process in processes))
