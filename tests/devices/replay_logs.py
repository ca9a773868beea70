# SPDX-License-Identifier: Apache-2.0
"""One valid log of each format that replay reads, with the samples that it has."""

from dataclasses import dataclass

from keda_gpu_scaler.core.types import Device, Sample

MIB = 1 << 20


@dataclass(frozen=True)
class ExampleLog:
    """A log, the names of its format and of its first two moments, and the time between these."""

    format: str
    text: str
    first: tuple[Sample, ...]
    second: tuple[Sample, ...]
    gap_seconds: float = 1.0


def nvidia(index: int, uuid: str = "", model: str = "unknown", pci_address: str = "") -> Device:
    return Device(uuid or f"replay-gpu-{index}", index, model, pci_address)


_A = nvidia(0, "GPU-a", "NVIDIA L4", "0000:0c:00.0")
_B = nvidia(1, "GPU-b", "NVIDIA L4", "0000:19:00.0")


def _two(gpu: int, watts: float, a: Device = _A, b: Device = _B) -> tuple[Sample, ...]:
    """Device a with this load and power; b is idle, without a power."""
    return (
        Sample(a, gpu / 100, 0.07, 1234 * MIB, 23034 * MIB, 41.0, watts),
        Sample(b, 0.0, 0.0, 0, 23034 * MIB, 30.0, None),
    )


_CSV = """\
timestamp, index, uuid, name, pci.bus_id, utilization.gpu [%], utilization.memory [%], memory.used [MiB], \
memory.total [MiB], temperature.gpu, power.draw [W]
2025/01/31 14:02:03.123, 0, GPU-a, NVIDIA L4, 00000000:0C:00.0, 57 %, 7 %, 1234 MiB, 23034 MiB, 41, 63.10 W
2025/01/31 14:02:03.125, 1, GPU-b, NVIDIA L4, 00000000:19:00.0, 0 %, 0 %, 0 MiB, 23034 MiB, 30, [N/A]
2025/01/31 14:02:05.123, 0, GPU-a, NVIDIA L4, 00000000:0C:00.0, 100 %, 7 %, 1234 MiB, 23034 MiB, 41, 70.00 W
2025/01/31 14:02:05.126, 1, GPU-b, NVIDIA L4, 00000000:19:00.0, 0 %, 0 %, 0 MiB, 23034 MiB, 30, [N/A]
"""

_DMON = """\
#Date       Time        gpu    pwr  gtemp  mtemp     sm    mem     fb   bar1
#YYYYMMDD   HH:MM:SS    Idx      W      C      C      %      %     MB     MB
 20250131   14:02:03      0     63     41      -     57      7   1234      3
 20250131   14:02:03      1      -     30      -      0      0      0      3
 20250131   14:02:05      0     70     41      -    100      7   1234      3
 20250131   14:02:05      1      -     30      -      0      0      0      3
"""


def _without_total(samples: tuple[Sample, ...]) -> tuple[Sample, ...]:
    return tuple(
        Sample(
            nvidia(one.device.index),
            one.gpu_utilization_ratio,
            one.memory_utilization_ratio,
            one.memory_used_bytes,
            None,
            one.temperature_celsius,
            one.power_watts,
        )
        for one in samples
    )


def _xml(time: str, gpu: int, watts: str) -> str:
    one = """\
    <gpu id="{pci}">
        <product_name>NVIDIA L4</product_name>
        <mig_mode><current_mig>N/A</current_mig></mig_mode>
        <uuid>{uuid}</uuid>
        <fb_memory_usage><total>23034 MiB</total><reserved>1 MiB</reserved><used>{used} MiB</used></fb_memory_usage>
        <bar1_memory_usage><total>256 MiB</total><used>9 MiB</used></bar1_memory_usage>
        <utilization><gpu_util>{gpu} %</gpu_util><memory_util>{memory} %</memory_util></utilization>
        <temperature><gpu_temp>{celsius} C</gpu_temp><gpu_temp_max_threshold>99 C</gpu_temp_max_threshold></temperature>
        <gpu_power_readings><average_power_draw>{watts}</average_power_draw></gpu_power_readings>
        <gpu_memory_power_readings><average_power_draw>9 W</average_power_draw></gpu_memory_power_readings>
    </gpu>
"""
    a = one.format(pci="00000000:0C:00.0", uuid="GPU-a", used=1234, gpu=gpu, memory=7, celsius=41, watts=watts)
    b = one.format(pci="00000000:19:00.0", uuid="GPU-b", used=0, gpu=0, memory=0, celsius=30, watts="N/A")
    return f"""\
<?xml version="1.0" ?>
<!DOCTYPE nvidia_smi_log SYSTEM "nvsmi_device_v12.dtd">
<nvidia_smi_log>
    <timestamp>{time}</timestamp>
    <attached_gpus>2</attached_gpus>
{a}{b}</nvidia_smi_log>
"""


def _text(time: str, gpu: int, watts: str) -> str:
    one = """\
GPU {pci}
    Product Name                                       : NVIDIA L4
    GPU UUID                                           : {uuid}
    PCI
        GPU Link Info
            Link Width
                Current                                : 16x
    FB Memory Usage
        Total                                          : 23034 MiB
        Reserved                                       : 1 MiB
        Used                                           : {used} MiB
    BAR1 Memory Usage
        Used                                           : 9 MiB
    Utilization
        Gpu                                            : {gpu} %
        Memory                                         : {memory} %
    Temperature
        GPU Current Temp                               : {celsius} C
        Memory Current Temp                            : 48 C
    GPU Power Readings
        Power Draw                                     : {watts}
    GPU Memory Power Readings
        Average Power Draw                             : 9 W
    Processes                                          : None

"""
    a = one.format(pci="00000000:0C:00.0", uuid="GPU-a", used=1234, gpu=gpu, memory=7, celsius=41, watts=watts)
    b = one.format(pci="00000000:19:00.0", uuid="GPU-b", used=0, gpu=0, memory=0, celsius=30, watts="N/A")
    return f"""\
==============NVSMI LOG==============

Timestamp                                              : {time}
Attached GPUs                                          : 2
{a}{b}"""


def _gpustat(time: str, gpu: int, watts: int) -> str:
    return f"""\
{{
    "hostname": "node",
    "driver_version": "550",
    "query_time": "{time}",
    "gpus": [
        {{
            "index": 0,
            "uuid": "GPU-a",
            "name": "NVIDIA L4",
            "temperature.gpu": 41,
            "fan.speed": null,
            "utilization.gpu": {gpu},
            "power.draw": {watts},
            "enforced.power.limit": 72,
            "memory.used": 1234,
            "memory.total": 23034,
            "processes": [{{"username": "a", "command": "x]}}", "gpu_memory_usage": 9, "pid": 1}}]
        }},
        {{
            "index": 1,
            "uuid": "GPU-b",
            "name": "NVIDIA L4",
            "temperature.gpu": 30,
            "utilization.gpu": 0,
            "power.draw": null,
            "memory.used": 0,
            "memory.total": 23034,
            "processes": []
        }}
    ]
}}
"""


def _gpustat_samples(gpu: int, watts: float) -> tuple[Sample, ...]:
    return (
        Sample(nvidia(0, "GPU-a", "NVIDIA L4"), gpu / 100, None, 1234 * MIB, 23034 * MIB, 41.0, watts),
        Sample(nvidia(1, "GPU-b", "NVIDIA L4"), 0.0, None, 0, 23034 * MIB, 30.0, None),
    )


def _dcgm(time: int, gpu: int, watts: float) -> str:
    labels = 'gpu="{0}",UUID="{1}",pci_bus_id="{2}",device="nvidia{0}",modelName="NVIDIA L4",Hostname="n"'
    a, b = labels.format(0, "GPU-a", "00000000:0C:00.0"), labels.format(1, "GPU-b", "00000000:19:00.0")
    return f"""\
{time}
# HELP DCGM_FI_DEV_SM_CLOCK SM clock frequency (in MHz).
# TYPE DCGM_FI_DEV_SM_CLOCK gauge
DCGM_FI_DEV_SM_CLOCK{{{a}}} 210
# HELP DCGM_FI_DEV_GPU_TEMP GPU temperature (in C).
# TYPE DCGM_FI_DEV_GPU_TEMP gauge
DCGM_FI_DEV_GPU_TEMP{{{a}}} 41
DCGM_FI_DEV_GPU_TEMP{{{b}}} 30
DCGM_FI_DEV_POWER_USAGE{{{a}}} {watts:.6f}
DCGM_FI_DEV_POWER_USAGE{{{b}}} 9223372036854775794
DCGM_FI_DEV_GPU_UTIL{{{a},namespace="ai",pod="x}} 1"}} {gpu}
DCGM_FI_DEV_GPU_UTIL{{{a},namespace="ai",pod="y"}} {gpu}
DCGM_FI_DEV_GPU_UTIL{{{b}}} 0
DCGM_FI_DEV_MEM_COPY_UTIL{{{a}}} 7
DCGM_FI_DEV_MEM_COPY_UTIL{{{b}}} 0
DCGM_FI_DEV_FB_FREE{{{a}}} 21700
DCGM_FI_DEV_FB_FREE{{{b}}} 22934
DCGM_FI_DEV_FB_USED{{{a}}} 1234
DCGM_FI_DEV_FB_USED{{{b}}} 0
DCGM_FI_DEV_FB_RESERVED{{{a}}} 100
DCGM_FI_DEV_FB_RESERVED{{{b}}} 100
DCGM_FI_PROF_GR_ENGINE_ACTIVE{{{a}}} 0.999
"""


_AMD_A = Device("amd-79ccd55167a2124a", 0, "AMD Instinct MI100", "0000:83:00.0")
_AMD_B = Device("amd-0000:84:00.0", 1, "AMD Instinct MI100", "0000:84:00.0")


def _rocm(time: int, gpu: int, watts: float) -> str:
    return f"""\
{time}
{{"card0": {{"Unique ID": "0x79ccd55167a2124a", "Card series": "AMD Instinct MI100", "PCI Bus": "0000:83:00.0", \
"Temperature (Sensor edge) (C)": "41.0", "Temperature (Sensor junction) (C)": "55.0", "GPU use (%)": "{gpu}", \
"Average Graphics Package Power (W)": "{watts}", "GPU memory use (%)": "7", "VRAM Total Memory (B)": "{23034 * MIB}", \
"VRAM Total Used Memory (B)": "{1234 * MIB}"}}, "card1": {{"Unique ID": "N/A", "Card series": "AMD Instinct MI100", \
"PCI Bus": "0000:84:00.0", "Temperature (Sensor edge) (C)": "N/A", "Temperature (Sensor junction) (C)": "30.0", \
"GPU use (%)": "0", "Average Graphics Package Power (W)": "N/A (Secondary die)", "GPU memory use (%)": "0", \
"VRAM Total Memory (B)": "{23034 * MIB}", "VRAM Total Used Memory (B)": "0"}}, "system": {{"Driver version": "6.3"}}}}
"""


def _rocm_csv(time: int, gpu: int, watts: float) -> str:
    return f"""\
{time}
device,Unique ID,Card series,PCI Bus,Temperature (Sensor edge) (C),Temperature (Sensor junction) (C),GPU use (%),\
Average Graphics Package Power (W),GPU memory use (%),VRAM Total Memory (B),VRAM Total Used Memory (B)
card0,0x79ccd55167a2124a,AMD Instinct MI100,0000:83:00.0,41.0,55.0,{gpu},{watts},7,{23034 * MIB},{1234 * MIB}
card1,N/A,AMD Instinct MI100,0000:84:00.0,N/A,30.0,0,N/A (Secondary die),0,{23034 * MIB},0

device,Driver version
system,6.3
"""


_AMD_SMI_CSV = """\
timestamp,gpu,gfx_activity,umc_activity,mm_activity,vcn_activity,socket_power,gfx_voltage,edge,hotspot,mem,total_vram,\
used_vram,free_vram
1738332123,0,57,7,N/A,"['N/A', 'N/A']",63.1,N/A,41,55,60,23034,1234,21800
1738332124,1,0,0,N/A,"['N/A', 'N/A']",N/A,N/A,N/A,30,31,23034,0,23034
1738332125,0,100,7,N/A,"['N/A', 'N/A']",70,N/A,41,55,60,23034,1234,21800
1738332125,1,0,0,N/A,"['N/A', 'N/A']",N/A,N/A,N/A,30,31,23034,0,23034
"""
_AMD_0, _AMD_1 = Device("amd-replay-gpu-0", 0, "unknown"), Device("amd-replay-gpu-1", 1, "unknown")


def _amd_smi(time: int, gpu: int, watts: float) -> str:
    one = """\
    {{
        "timestamp": {time},
        "gpu": {index},
        "usage": {{
            "gfx_activity": {{"value": {gpu}, "unit": "%"}},
            "umc_activity": {{"value": {memory}, "unit": "%"}},
            "vcn_activity": [{{"value": 0, "unit": "%"}}, "N/A"]
        }},
        "power": {{"socket_power": {watts}, "throttle_status": "N/A"}},
        "temperature": {{
            "edge": {edge}, "hotspot": {{"value": {hotspot}, "unit": "C"}}, "mem": {{"value": 60, "unit": "C"}}
        }},
        "mem_usage": {{
            "total_vram": {{"value": 23034, "unit": "MB"}},
            "used_vram": {{"value": {used}, "unit": "MB"}}
        }}
    }}"""
    power, celsius = f'{{"value": {watts}, "unit": "W"}}', '{"value": 41, "unit": "C"}'
    a = one.format(time=time, index=0, gpu=gpu, memory=7, watts=power, edge=celsius, hotspot=55, used=1234)
    b = one.format(time=time, index=1, gpu=0, memory=0, watts='"N/A"', edge='"N/A"', hotspot=30, used=0)
    return f"[\n{a},\n{b}\n]\n"


_XPU = """\
Timestamp, DeviceId, GPU Utilization (%), GPU Power (W), GPU Core Temperature (Celsius Degree), GPU Memory Used (MiB)
14:02:03.000,    0, 57.00, 63.10, 41.00, 1234.00
14:02:03.000,    1, 0.00,     , 30.00, 0.00
14:02:05.000,    0, 100.00, 70.00, 41.00, 1234.00
14:02:05.000,    1, 0.00,     , 30.00, 0.00
"""


def _xpu_samples(gpu: int, watts: float) -> tuple[Sample, ...]:
    return (
        Sample(Device("intel-replay-gpu-0", 0, "unknown"), gpu / 100, None, 1234 * MIB, None, 41.0, watts),
        Sample(Device("intel-replay-gpu-1", 1, "unknown"), 0.0, None, 0, None, 30.0, None),
    )


def _amd_exporter(gpu: int, watts: float) -> str:
    lines = []
    for index, (use, memory, used, celsius, power) in enumerate(((gpu, 7, 1234, 41, watts), (0, 0, 0, 30, 0.0))):
        labels = f'gpu_id="{index}",gpu_uuid="{"ab"[index]}",card_model="AMD Instinct MI300X"'
        lines += [
            f"amd_gpu_gfx_activity{{{labels}}} {use}",
            f"amd_gpu_umc_activity{{{labels}}} {memory}",
            f"amd_gpu_total_vram{{{labels}}} 23034",
            f"amd_gpu_used_vram{{{labels}}} {used}",
            f"amd_gpu_edge_temperature{{{labels}}} 0",
            f"amd_gpu_junction_temperature{{{labels}}} {celsius}",
            f"amd_gpu_package_power{{{labels}}} {power}",
        ]
    return "# HELP amd_gpu_nodes_total Number\namd_gpu_nodes_total 1\n" + "\n".join(lines) + "\n"


_MI300 = Device("amd-a", 0, "AMD Instinct MI300X"), Device("amd-b", 1, "AMD Instinct MI300X")

EXAMPLES = (
    ExampleLog("nvidia-smi CSV", _CSV, _two(57, 63.1), _two(100, 70.0), 2.0),
    ExampleLog("nvidia-smi dmon", _DMON, _without_total(_two(57, 63.0)), _without_total(_two(100, 70.0)), 2.0),
    ExampleLog(
        "nvidia-smi XML",
        _xml("Fri Jan 31 14:02:03 2025", 57, "63.10 W") + _xml("Fri Jan 31 14:02:05 2025", 100, "70.00 W"),
        _two(57, 63.1),
        _two(100, 70.0),
        2.0,
    ),
    ExampleLog(
        "nvidia-smi text",
        _text("Fri Jan 31 14:02:03 2025", 57, "63.10 W") + _text("Fri Jan 31 14:02:05 2025", 100, "70.00 W"),
        _two(57, 63.1),
        _two(100, 70.0),
        2.0,
    ),
    ExampleLog(
        "gpustat JSON",
        _gpustat("2025-01-31T14:02:03.123456", 57, 63) + _gpustat("2025-01-31T14:02:05.123456", 100, 70),
        _gpustat_samples(57, 63.0),
        _gpustat_samples(100, 70.0),
        2.0,
    ),
    ExampleLog(
        "dcgm-exporter",
        _dcgm(1738332123, 57, 63.1) + _dcgm(1738332125, 100, 70.0),
        _two(57, 63.1),
        _two(100, 70.0),
        2.0,
    ),
    ExampleLog(
        "rocm-smi JSON",
        _rocm(1738332123, 57, 63.1) + _rocm(1738332125, 100, 70.0),
        _two(57, 63.1, _AMD_A, _AMD_B),
        _two(100, 70.0, _AMD_A, _AMD_B),
        2.0,
    ),
    ExampleLog(
        "rocm-smi CSV",
        _rocm_csv(1738332123, 57, 63.1) + _rocm_csv(1738332125, 100, 70.0),
        _two(57, 63.1, _AMD_A, _AMD_B),
        _two(100, 70.0, _AMD_A, _AMD_B),
        2.0,
    ),
    ExampleLog("amd-smi CSV", _AMD_SMI_CSV, _two(57, 63.1, _AMD_0, _AMD_1), _two(100, 70.0, _AMD_0, _AMD_1), 2.0),
    ExampleLog(
        "amd-smi JSON",
        _amd_smi(1738332123, 57, 63.1) + _amd_smi(1738332125, 100, 70.0),
        _two(57, 63.1, _AMD_0, _AMD_1),
        _two(100, 70.0, _AMD_0, _AMD_1),
        2.0,
    ),
    ExampleLog(
        "AMD's device-metrics-exporter",
        _amd_exporter(57, 63.1) + _amd_exporter(100, 70.0),
        _two(57, 63.1, *_MI300),
        _two(100, 70.0, *_MI300),
    ),
    ExampleLog("xpu-smi dump", _XPU, _xpu_samples(57, 63.1), _xpu_samples(100, 70.0), 2.0),
)
