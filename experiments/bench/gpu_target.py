"""The H100 that programs are compiled for where there is none.

Numbers are those that XLA asks a device for; sources: NVIDIA's data sheet of the H100 SXM5 80 GB
and the CUDA programming guide, compute capability 9.0. Without `driver_version` XLA takes a driver
that knows no loops in CUDA graphs.
"""

MEMORY = 84_929_347_584
"""Bytes of device memory."""

H100 = f"""
platform_name: "CUDA"
device_description_str: "NVIDIA H100 80GB HBM3"
dnn_version_info {{ major: 9 minor: 10 }}
runtime_version {{ major: 13 minor: 0 patch: 0 }}
gpu_device_info {{
  cuda_compute_capability {{ major: 9 }}
  driver_version: "13.0.0"
  kernel_mode_driver_version: "580.65.6"
  runtime_version: "13.0.0"
  compile_time_toolkit_version: "13.0.0"
  core_count: 132
  fpus_per_core: 128
  clock_rate_ghz: 1.98
  threads_per_warp: 32
  threads_per_core_limit: 2048
  threads_per_block_limit: 1024
  block_dim_limit_x: 2147483647
  block_dim_limit_y: 65535
  block_dim_limit_z: 65535
  registers_per_core_limit: 65536
  registers_per_block_limit: 65536
  shared_memory_per_core: 233472
  shared_memory_per_block: 49152
  shared_memory_per_block_optin: 232448
  l2_cache_size: 52428800
  memory_bandwidth: 3352320000000
  device_memory_size: {MEMORY}
}}
"""
