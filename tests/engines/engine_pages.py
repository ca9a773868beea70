# SPDX-License-Identifier: Apache-2.0
"""A page of each engine and of each generation of it, with series whose names are easily confused.

The pages have the shape that the engines document; a comment names the source of each. The values differ, so that a
test notices if one series is read instead of another.
"""

# vLLM, docs "Production Metrics" and vllm/v1/metrics/loggers.py: one series for each data-parallel rank (label engine).
# The reasons of waiting are exported beside the total and must not be added to it.
VLLM = b"""\
# HELP vllm:num_requests_running Number of requests in model execution batches.
# TYPE vllm:num_requests_running gauge
vllm:num_requests_running{engine="0",model_name="m"} 11.0
vllm:num_requests_running{engine="1",model_name="m"} 12.0
# HELP vllm:num_requests_waiting Number of requests waiting, vllm:num_requests_waiting 99.0 not among them.
# TYPE vllm:num_requests_waiting gauge
vllm:num_requests_waiting{engine="0",model_name="m"} 3.0
vllm:num_requests_waiting{engine="1",model_name="m"} 4.0
# TYPE vllm:num_requests_waiting_by_reason gauge
vllm:num_requests_waiting_by_reason{engine="0",model_name="m",reason="capacity"} 2.0
vllm:num_requests_waiting_by_reason{engine="0",model_name="m",reason="deferred"} 1.0
vllm:num_requests_waiting_by_reason{engine="1",model_name="m",reason="capacity"} 4.0
vllm:num_requests_waiting_by_reason{engine="1",model_name="m",reason="deferred"} 0.0
# TYPE vllm:kv_cache_usage_perc gauge
vllm:kv_cache_usage_perc{engine="0",model_name="m"} 0.25
vllm:kv_cache_usage_perc{engine="1",model_name="m"} 0.75
# TYPE vllm:request_success_total counter
vllm:request_success_total{engine="0",finished_reason="stop",model_name="m"} 100.0
vllm:request_success_total{engine="0",finished_reason="length",model_name="m"} 20.0
vllm:request_success_total{engine="1",finished_reason="stop",model_name="m"} 3.0
# TYPE vllm:request_success_created gauge
vllm:request_success_created{engine="0",finished_reason="stop",model_name="m"} 1.77e+09
# TYPE vllm:generation_tokens_total counter
vllm:generation_tokens_total{engine="0",model_name="m"} 5000.0
vllm:generation_tokens_total{engine="1",model_name="m"} 6.0
# TYPE vllm:request_generation_tokens histogram
vllm:request_generation_tokens_sum{engine="0",model_name="m"} 7777.0
# TYPE vllm:request_queue_time_seconds histogram
vllm:request_queue_time_seconds_bucket{engine="0",le="0.3",model_name="m"} 90.0
vllm:request_queue_time_seconds_bucket{engine="0",le="+Inf",model_name="m"} 120.0
vllm:request_queue_time_seconds_count{engine="0",model_name="m"} 120.0
vllm:request_queue_time_seconds_sum{engine="0",model_name="m"} 60.5
vllm:request_queue_time_seconds_count{engine="1",model_name="m"} 3.0
vllm:request_queue_time_seconds_sum{engine="1",model_name="m"} 0.25
# TYPE vllm:time_to_first_token_seconds histogram
vllm:time_to_first_token_seconds_bucket{engine="0",le="0.1",model_name="m"} 10.0
vllm:time_to_first_token_seconds_bucket{engine="0",le="2.5",model_name="m"} 70.0
vllm:time_to_first_token_seconds_bucket{engine="0",le="+Inf",model_name="m"} 120.0
vllm:time_to_first_token_seconds_count{engine="0",model_name="m"} 120.0
vllm:time_to_first_token_seconds_sum{engine="0",model_name="m"} 400.0
vllm:time_to_first_token_seconds_bucket{engine="1",le="0.1",model_name="m"} 1.0
vllm:time_to_first_token_seconds_bucket{engine="1",le="2.5",model_name="m"} 2.0
vllm:time_to_first_token_seconds_bucket{engine="1",le="+Inf",model_name="m"} 3.0
vllm:time_to_first_token_seconds_count{engine="1",model_name="m"} 3.0
vllm:time_to_first_token_seconds_sum{engine="1",model_name="m"} 1.0
# TYPE vllm:inter_token_latency_seconds histogram
vllm:inter_token_latency_seconds_bucket{engine="0",le="0.01",model_name="m"} 1000.0
vllm:inter_token_latency_seconds_bucket{engine="0",le="0.025",model_name="m"} 4000.0
vllm:inter_token_latency_seconds_bucket{engine="0",le="+Inf",model_name="m"} 4880.0
vllm:inter_token_latency_seconds_count{engine="0",model_name="m"} 4880.0
vllm:inter_token_latency_seconds_sum{engine="0",model_name="m"} 97.5
vllm:inter_token_latency_seconds_bucket{engine="1",le="0.01",model_name="m"} 0.0
vllm:inter_token_latency_seconds_bucket{engine="1",le="0.025",model_name="m"} 2.0
vllm:inter_token_latency_seconds_bucket{engine="1",le="+Inf",model_name="m"} 3.0
vllm:inter_token_latency_seconds_count{engine="1",model_name="m"} 3.0
vllm:inter_token_latency_seconds_sum{engine="1",model_name="m"} 0.25
# TYPE vllm:request_time_per_output_token_seconds histogram
vllm:request_time_per_output_token_seconds_bucket{engine="0",le="+Inf",model_name="m"} 121.0
vllm:request_time_per_output_token_seconds_count{engine="0",model_name="m"} 121.0
vllm:request_time_per_output_token_seconds_sum{engine="0",model_name="m"} 2.5
# TYPE vllm:prompt_tokens_total counter
vllm:prompt_tokens_total{engine="0",model_name="m"} 30000.0
vllm:prompt_tokens_total{engine="1",model_name="m"} 70.0
# TYPE vllm:prompt_tokens_cached_total counter
vllm:prompt_tokens_cached_total{engine="0",model_name="m"} 11111.0
# TYPE vllm:request_prompt_tokens histogram
vllm:request_prompt_tokens_sum{engine="0",model_name="m"} 22222.0
# TYPE vllm:cache_config_info gauge
vllm:cache_config_info{block_size="16",gpu_memory_utilization="0.9",num_gpu_blocks="2048"} 1.0
"""

# vLLM before 0.12: other names of the cache and of the time between tokens, no reasons, no ranks.
VLLM_OLD = b"""\
# TYPE vllm:num_requests_running gauge
vllm:num_requests_running{model_name="m"} 5.0
# TYPE vllm:num_requests_swapped gauge
vllm:num_requests_swapped{model_name="m"} 9.0
# TYPE vllm:num_requests_waiting gauge
vllm:num_requests_waiting{model_name="m"} 0.0
# TYPE vllm:gpu_cache_usage_perc gauge
vllm:gpu_cache_usage_perc{model_name="m"} 0.5
# TYPE vllm:cpu_cache_usage_perc gauge
vllm:cpu_cache_usage_perc{model_name="m"} 0.9
# TYPE vllm:prompt_tokens_total counter
vllm:prompt_tokens_total{model_name="m"} 500.0
# TYPE vllm:time_per_output_token_seconds histogram
vllm:time_per_output_token_seconds_bucket{le="0.05",model_name="m"} 40.0
vllm:time_per_output_token_seconds_bucket{le="+Inf",model_name="m"} 60.0
vllm:time_per_output_token_seconds_count{model_name="m"} 60.0
vllm:time_per_output_token_seconds_sum{model_name="m"} 2.75
# TYPE vllm:time_per_prefill_token_request_seconds histogram
vllm:time_per_prefill_token_request_seconds_count{model_name="m"} 66.0
vllm:time_per_prefill_token_request_seconds_sum{model_name="m"} 6.5
"""

# A vLLM that exports the reasons alone: requests that wait for capacity are load, deferred requests are not.
VLLM_BY_REASON = b"""\
# TYPE vllm:num_requests_waiting_by_reason gauge
vllm:num_requests_waiting_by_reason{engine="0",model_name="m",reason="capacity"} 6.0
vllm:num_requests_waiting_by_reason{engine="0",model_name="m",reason="deferred"} 30.0
"""

# SGLang, docs "Production Metrics" and srt/observability/metrics_collector.py: two data-parallel ranks, each exported
# by two tensor-parallel ones (--enable-metrics-for-all-schedulers), and priorities, whose parts stand beside the total.
SGLANG = b"""\
# HELP sglang:num_running_reqs The number of running requests.
# TYPE sglang:num_running_reqs gauge
sglang:num_running_reqs{dp_rank="0",engine_type="unified",model_name="m",pp_rank="0",priority="",tp_rank="0"} 8.0
sglang:num_running_reqs{dp_rank="0",engine_type="unified",model_name="m",pp_rank="0",priority="",tp_rank="1"} 8.0
sglang:num_running_reqs{dp_rank="0",engine_type="unified",model_name="m",pp_rank="0",priority="1",tp_rank="0"} 5.0
sglang:num_running_reqs{dp_rank="0",engine_type="unified",model_name="m",pp_rank="0",priority="5",tp_rank="0"} 3.0
sglang:num_running_reqs{dp_rank="1",engine_type="unified",model_name="m",pp_rank="0",priority="",tp_rank="2"} 9.0
sglang:num_running_reqs{dp_rank="1",engine_type="unified",model_name="m",pp_rank="0",priority="",tp_rank="3"} 9.0
# TYPE sglang:num_running_reqs_offline_batch gauge
sglang:num_running_reqs_offline_batch{dp_rank="0",model_name="m",pp_rank="0",tp_rank="0"} 50.0
# TYPE sglang:num_queue_reqs gauge
sglang:num_queue_reqs{dp_rank="0",engine_type="unified",model_name="m",pp_rank="0",priority="",tp_rank="0"} 2.0
sglang:num_queue_reqs{dp_rank="0",engine_type="unified",model_name="m",pp_rank="0",priority="",tp_rank="1"} 1.0
sglang:num_queue_reqs{dp_rank="1",engine_type="unified",model_name="m",pp_rank="0",priority="",tp_rank="2"} 4.0
sglang:num_queue_reqs{dp_rank="1",engine_type="unified",model_name="m",pp_rank="0",priority="5",tp_rank="2"} 4.0
# TYPE sglang:num_grammar_queue_reqs gauge
sglang:num_grammar_queue_reqs{dp_rank="0",model_name="m",pp_rank="0",tp_rank="0"} 60.0
# TYPE sglang:token_usage gauge
sglang:token_usage{dp_rank="0",engine_type="unified",model_name="m",pp_rank="0",priority="",tp_rank="0"} 0.1
sglang:token_usage{dp_rank="1",engine_type="unified",model_name="m",pp_rank="0",priority="",tp_rank="2"} 0.6
# TYPE sglang:swa_token_usage gauge
sglang:swa_token_usage{dp_rank="1",model_name="m",pp_rank="0",tp_rank="2"} 0.95
# TYPE sglang:num_requests_total counter
sglang:num_requests_total{engine_type="unified",is_streaming="true",model_name="m"} 40.0
sglang:num_requests_total{engine_type="unified",is_streaming="false",model_name="m"} 2.0
# TYPE sglang:generation_tokens_total counter
sglang:generation_tokens_total{engine_type="unified",is_streaming="true",model_name="m"} 850.0
sglang:generation_tokens_total{engine_type="unified",is_streaming="false",model_name="m"} 50.0
# TYPE sglang:prompt_tokens_total counter
sglang:prompt_tokens_total{engine_type="unified",is_streaming="true",model_name="m"} 7000.0
sglang:prompt_tokens_total{engine_type="unified",is_streaming="false",model_name="m"} 400.0
# TYPE sglang:cached_tokens_total counter
sglang:cached_tokens_total{cache_source="device",engine_type="unified",model_name="m"} 3333.0
# TYPE sglang:prompt_tokens_histogram histogram
sglang:prompt_tokens_histogram_sum{engine_type="unified",model_name="m"} 7401.0
# TYPE sglang:realtime_tokens_total counter
sglang:realtime_tokens_total{dp_rank="0",mode="decode",model_name="m",pp_rank="0",tp_rank="0"} 950.0
# TYPE sglang:queue_time_seconds histogram
sglang:queue_time_seconds_sum{dp_rank="0",model_name="m",pp_rank="0",tp_rank="0"} 1.5
sglang:queue_time_seconds_sum{dp_rank="0",model_name="m",pp_rank="0",tp_rank="1"} 1.5
sglang:queue_time_seconds_sum{dp_rank="1",model_name="m",pp_rank="0",tp_rank="2"} 2.5
sglang:queue_time_seconds_count{dp_rank="0",model_name="m",pp_rank="0",tp_rank="0"} 20.0
sglang:queue_time_seconds_count{dp_rank="0",model_name="m",pp_rank="0",tp_rank="1"} 20.0
sglang:queue_time_seconds_count{dp_rank="1",model_name="m",pp_rank="0",tp_rank="2"} 22.0
# TYPE sglang:time_to_first_token_seconds histogram
sglang:time_to_first_token_seconds_bucket{engine_type="unified",le="0.1",model_name="m"} 30.0
sglang:time_to_first_token_seconds_bucket{engine_type="unified",le="+Inf",model_name="m"} 42.0
sglang:time_to_first_token_seconds_count{engine_type="unified",model_name="m"} 42.0
# TYPE sglang:inter_token_latency_seconds histogram
sglang:inter_token_latency_seconds_bucket{engine_type="unified",le="0.02",model_name="m"} 600.0
sglang:inter_token_latency_seconds_bucket{engine_type="unified",le="+Inf",model_name="m"} 858.0
sglang:inter_token_latency_seconds_count{engine_type="unified",model_name="m"} 858.0
sglang:inter_token_latency_seconds_sum{engine_type="unified",model_name="m"} 21.5
# TYPE sglang:max_running_requests_under_SLO gauge
sglang:max_running_requests_under_SLO{dp_rank="0",model_name="m",pp_rank="0",tp_rank="0"} 80.0
"""

# SGLang on one GPU, before ranks and priorities were exported. Its time per output token is a mean since the first
# token that is observed with each output; it is not read.
SGLANG_OLD = b"""\
# TYPE sglang:num_running_reqs gauge
sglang:num_running_reqs{model_name="m"} 7.0
# TYPE sglang:num_queue_reqs gauge
sglang:num_queue_reqs{model_name="m"} 1.0
# TYPE sglang:token_usage gauge
sglang:token_usage{model_name="m"} 0.28
# TYPE sglang:gen_throughput gauge
sglang:gen_throughput{model_name="m"} 86.5
# TYPE sglang:time_per_output_token_seconds histogram
sglang:time_per_output_token_seconds_bucket{le="+Inf",model_name="m"} 77.0
sglang:time_per_output_token_seconds_count{model_name="m"} 77.0
sglang:time_per_output_token_seconds_sum{model_name="m"} 7.5
"""

# TGI, docs "Metrics": counters without a suffix, histograms of Rust's exporter.
TGI = b"""\
# TYPE tgi_request_count counter
tgi_request_count 61
# TYPE tgi_request_success counter
tgi_request_success 58
# TYPE tgi_queue_size gauge
tgi_queue_size 13
# TYPE tgi_batch_current_size gauge
tgi_batch_current_size 16
# TYPE tgi_batch_current_max_tokens gauge
tgi_batch_current_max_tokens 32768
# TYPE tgi_batch_max_total_tokens gauge
tgi_batch_max_total_tokens 65536
# TYPE tgi_batch_next_size histogram
tgi_batch_next_size_sum 99
# TYPE tgi_request_queue_duration histogram
tgi_request_queue_duration_bucket{le="0.001"} 40
tgi_request_queue_duration_bucket{le="+Inf"} 60
tgi_request_queue_duration_sum 4.5
tgi_request_queue_duration_count 60
# TYPE tgi_request_generated_tokens histogram
tgi_request_generated_tokens_bucket{le="+Inf"} 58
tgi_request_generated_tokens_sum 5800
tgi_request_generated_tokens_count 58
# TYPE tgi_request_input_length histogram
tgi_request_input_length_bucket{le="+Inf"} 61
tgi_request_input_length_sum 12400
tgi_request_input_length_count 61
# TYPE tgi_request_max_new_tokens histogram
tgi_request_max_new_tokens_sum 9900
tgi_request_max_new_tokens_count 61
# TYPE tgi_request_mean_time_per_token_duration histogram
tgi_request_mean_time_per_token_duration_bucket{le="0.025"} 20
tgi_request_mean_time_per_token_duration_bucket{le="+Inf"} 57
tgi_request_mean_time_per_token_duration_sum 1.75
tgi_request_mean_time_per_token_duration_count 57
# TYPE tgi_request_inference_duration histogram
tgi_request_inference_duration_sum 190.5
tgi_request_inference_duration_count 56
"""

# Triton, docs "Metrics": one series for each model and version, times in microseconds.
TRITON = b"""\
# HELP nv_inference_request_success Number of successful inference requests, all batch sizes
# TYPE nv_inference_request_success counter
nv_inference_request_success{model="detect",version="1"} 160
nv_inference_request_success{model="embed",version="3"} 40
# TYPE nv_inference_request_failure counter
nv_inference_request_failure{model="detect",reason="REJECTED",version="1"} 7
# TYPE nv_inference_count counter
nv_inference_count{model="detect",version="1"} 1280
# TYPE nv_inference_exec_count counter
nv_inference_exec_count{model="detect",version="1"} 33
# TYPE nv_inference_request_duration_us counter
nv_inference_request_duration_us{model="detect",version="1"} 9000000
# TYPE nv_inference_queue_duration_us counter
nv_inference_queue_duration_us{model="detect",version="1"} 1500000
nv_inference_queue_duration_us{model="embed",version="3"} 500000
# TYPE nv_inference_compute_input_duration_us counter
nv_inference_compute_input_duration_us{model="detect",version="1"} 250000
# TYPE nv_inference_compute_infer_duration_us counter
nv_inference_compute_infer_duration_us{model="detect",version="1"} 6000000
nv_inference_compute_infer_duration_us{model="embed",version="3"} 1250000
# TYPE nv_inference_compute_output_duration_us counter
nv_inference_compute_output_duration_us{model="detect",version="1"} 750000
# TYPE nv_inference_pending_request_count gauge
nv_inference_pending_request_count{model="detect",version="1"} 5
nv_inference_pending_request_count{model="embed",version="3"} 1
# TYPE nv_gpu_utilization gauge
nv_gpu_utilization{gpu_uuid="GPU-1"} 0.9
"""

# Triton with --metrics-config counter_latencies=false and summary_latencies=true: times as summaries.
TRITON_SUMMARIES = b"""\
# TYPE nv_inference_request_success counter
nv_inference_request_success{model="detect",version="1"} 50
# TYPE nv_inference_pending_request_count gauge
nv_inference_pending_request_count{model="detect",version="1"} 3
# TYPE nv_inference_queue_summary_us summary
nv_inference_queue_summary_us{model="detect",quantile="0.5",version="1"} 9
nv_inference_queue_summary_us_count{model="detect",version="1"} 49
nv_inference_queue_summary_us_sum{model="detect",version="1"} 1500000
# TYPE nv_inference_compute_infer_summary_us summary
nv_inference_compute_infer_summary_us{model="detect",quantile="0.5",version="1"} 70
nv_inference_compute_infer_summary_us_count{model="detect",version="1"} 48
nv_inference_compute_infer_summary_us_sum{model="detect",version="1"} 6250000
"""

# Triton with TensorRT-LLM, the backend's README "Triton Metrics" and its custom_metrics_reporter: one name for
# requests, one for the cache's blocks, and tokens by histograms of their number per request.
TRITON_TRTLLM = b"""\
# TYPE nv_inference_request_success counter
nv_inference_request_success{model="tensorrt_llm",version="1"} 12
# TYPE nv_inference_queue_duration_us counter
nv_inference_queue_duration_us{model="tensorrt_llm",version="1"} 2000
# TYPE nv_inference_compute_infer_duration_us counter
nv_inference_compute_infer_duration_us{model="tensorrt_llm",version="1"} 36000000
# TYPE nv_inference_pending_request_count gauge
nv_inference_pending_request_count{model="tensorrt_llm",version="1"} 77
# TYPE nv_trt_llm_request_metrics gauge
nv_trt_llm_request_metrics{model="tensorrt_llm",request_type="waiting",version="1"} 6
nv_trt_llm_request_metrics{model="tensorrt_llm",request_type="context",version="1"} 1
nv_trt_llm_request_metrics{model="tensorrt_llm",request_type="scheduled",version="1"} 48
nv_trt_llm_request_metrics{model="tensorrt_llm",request_type="max",version="1"} 64
nv_trt_llm_request_metrics{model="tensorrt_llm",request_type="active",version="1"} 54
# TYPE nv_trt_llm_kv_cache_block_metrics gauge
nv_trt_llm_kv_cache_block_metrics{kv_cache_block_type="tokens_per",model="tensorrt_llm",version="1"} 64
nv_trt_llm_kv_cache_block_metrics{kv_cache_block_type="used",model="tensorrt_llm",version="1"} 400
nv_trt_llm_kv_cache_block_metrics{kv_cache_block_type="fraction",model="tensorrt_llm",version="1"} 0.4
nv_trt_llm_kv_cache_block_metrics{kv_cache_block_type="max",model="tensorrt_llm",version="1"} 1000
# TYPE nv_llm_output_token_len histogram
nv_llm_output_token_len_count{model="tensorrt_llm",response_metric_type="total_output_tokens",version="1"} 11
nv_llm_output_token_len_sum{model="tensorrt_llm",response_metric_type="total_output_tokens",version="1"} 2300
# TYPE nv_llm_input_token_len histogram
nv_llm_input_token_len_count{model="tensorrt_llm",response_metric_type="total_input_tokens",version="1"} 13
nv_llm_input_token_len_sum{model="tensorrt_llm",response_metric_type="total_input_tokens",version="1"} 4700
"""

# trtllm-serve, tensorrt_llm/metrics/collector.py.
TRTLLM_SERVE = b"""\
# TYPE trtllm_num_requests_running gauge
trtllm_num_requests_running{engine_type="trtllm",model_name="m"} 14.0
# TYPE trtllm_num_requests_waiting gauge
trtllm_num_requests_waiting{engine_type="trtllm",model_name="m"} 2.0
# TYPE trtllm_num_requests_completed_total counter
trtllm_num_requests_completed_total{engine_type="trtllm",model_name="m"} 95.0
# TYPE trtllm_max_num_active_requests gauge
trtllm_max_num_active_requests{engine_type="trtllm",model_name="m"} 256.0
# TYPE trtllm_kv_cache_utilization gauge
trtllm_kv_cache_utilization{engine_type="trtllm",model_name="m"} 0.35
# TYPE trtllm_kv_cache_hit_rate gauge
trtllm_kv_cache_hit_rate{engine_type="trtllm",model_name="m"} 0.8
# TYPE trtllm_request_success_total counter
trtllm_request_success_total{engine_type="trtllm",finished_reason="stop",model_name="m"} 90.0
# TYPE trtllm_generation_tokens_total counter
trtllm_generation_tokens_total{engine_type="trtllm",model_name="m"} 8100.0
# TYPE trtllm_request_queue_time_seconds histogram
trtllm_request_queue_time_seconds_sum{engine_type="trtllm",model_name="m"} 9.5
trtllm_request_queue_time_seconds_count{engine_type="trtllm",model_name="m"} 91.0
# TYPE trtllm_time_to_first_token_seconds histogram
trtllm_time_to_first_token_seconds_bucket{engine_type="trtllm",le="0.5",model_name="m"} 80.0
trtllm_time_to_first_token_seconds_bucket{engine_type="trtllm",le="+Inf",model_name="m"} 91.0
trtllm_time_to_first_token_seconds_count{engine_type="trtllm",model_name="m"} 91.0
# TYPE trtllm_time_per_output_token_seconds histogram
trtllm_time_per_output_token_seconds_bucket{engine_type="trtllm",le="0.01",model_name="m"} 33.0
trtllm_time_per_output_token_seconds_bucket{engine_type="trtllm",le="+Inf",model_name="m"} 88.0
trtllm_time_per_output_token_seconds_count{engine_type="trtllm",model_name="m"} 88.0
trtllm_time_per_output_token_seconds_sum{engine_type="trtllm",model_name="m"} 1.25
# TYPE trtllm_request_inference_time_seconds histogram
trtllm_request_inference_time_seconds_count{engine_type="trtllm",model_name="m"} 89.0
trtllm_request_inference_time_seconds_sum{engine_type="trtllm",model_name="m"} 140.5
# TYPE trtllm_prompt_tokens_total counter
trtllm_prompt_tokens_total{engine_type="trtllm",model_name="m"} 45000.0
# TYPE trtllm_prompt_cached_tokens_total counter
trtllm_prompt_cached_tokens_total{engine_type="trtllm",model_name="m"} 15000.0
"""

# NIM for LLMs, docs "Observability": vLLM's older names without a prefix, and how many requests may run.
NIM = b"""\
# TYPE gpu_cache_usage_perc gauge
gpu_cache_usage_perc{model_name="m"} 0.2
# TYPE num_requests_running gauge
num_requests_running{model_name="m"} 21.0
# TYPE num_requests_waiting gauge
num_requests_waiting{model_name="m"} 1.0
# TYPE num_request_max gauge
num_request_max{model_name="m"} 2048.0
# TYPE prompt_tokens_total counter
prompt_tokens_total{model_name="m"} 603.0
# TYPE generation_tokens_total counter
generation_tokens_total{model_name="m"} 997.0
# TYPE request_success_total counter
request_success_total{model_name="m"} 30.0
# TYPE time_to_first_token_seconds histogram
time_to_first_token_seconds_bucket{le="0.25",model_name="m"} 29.0
time_to_first_token_seconds_bucket{le="+Inf",model_name="m"} 31.0
time_to_first_token_seconds_count{model_name="m"} 31.0
# TYPE time_per_output_token_seconds histogram
time_per_output_token_seconds_bucket{le="0.05",model_name="m"} 700.0
time_per_output_token_seconds_bucket{le="+Inf",model_name="m"} 966.0
time_per_output_token_seconds_count{model_name="m"} 966.0
time_per_output_token_seconds_sum{model_name="m"} 38.5
"""

# LMDeploy, lmdeploy/metrics/loggers.py: vLLM's names by another prefix, ranks by the label engine.
LMDEPLOY = b"""\
# TYPE lmdeploy:num_requests_running gauge
lmdeploy:num_requests_running{engine="0",model_name="m"} 3.0
lmdeploy:num_requests_running{engine="1",model_name="m"} 4.0
# TYPE lmdeploy:num_requests_waiting gauge
lmdeploy:num_requests_waiting{engine="0",model_name="m"} 0.0
lmdeploy:num_requests_waiting{engine="1",model_name="m"} 5.0
# TYPE lmdeploy:gpu_cache_usage_perc gauge
lmdeploy:gpu_cache_usage_perc{engine="0",model_name="m"} 0.3
lmdeploy:gpu_cache_usage_perc{engine="1",model_name="m"} 0.9
# TYPE lmdeploy:request_success_total counter
lmdeploy:request_success_total{engine="0",finished_reason="FINISH",model_name="m"} 17.0
# TYPE lmdeploy:generation_tokens_total counter
lmdeploy:generation_tokens_total{engine="0",model_name="m"} 250.0
# TYPE lmdeploy:request_queue_time_seconds histogram
lmdeploy:request_queue_time_seconds_count{engine="0",model_name="m"} 18.0
lmdeploy:request_queue_time_seconds_sum{engine="0",model_name="m"} 0.75
# TYPE lmdeploy:time_to_first_token_seconds histogram
lmdeploy:time_to_first_token_seconds_bucket{engine="0",le="1.0",model_name="m"} 16.0
lmdeploy:time_to_first_token_seconds_bucket{engine="0",le="+Inf",model_name="m"} 18.0
lmdeploy:time_to_first_token_seconds_count{engine="0",model_name="m"} 18.0
# TYPE lmdeploy:time_per_output_token_seconds histogram
lmdeploy:time_per_output_token_seconds_bucket{engine="0",le="0.025",model_name="m"} 150.0
lmdeploy:time_per_output_token_seconds_bucket{engine="0",le="+Inf",model_name="m"} 232.0
lmdeploy:time_per_output_token_seconds_count{engine="0",model_name="m"} 232.0
lmdeploy:time_per_output_token_seconds_sum{engine="0",model_name="m"} 5.5
# TYPE lmdeploy:iter_token_latency histogram
lmdeploy:iter_token_latency_bucket{engine="0",le="+Inf",model_name="m"} 116.0
lmdeploy:iter_token_latency_count{engine="0",model_name="m"} 116.0
lmdeploy:iter_token_latency_sum{engine="0",model_name="m"} 5.75
# TYPE lmdeploy:prompt_tokens_total counter
lmdeploy:prompt_tokens_total{engine="0",model_name="m"} 3600.0
lmdeploy:prompt_tokens_total{engine="1",model_name="m"} 80.0
"""

# llama.cpp, tools/server/README.md "GET /metrics"; older versions also export the cache, which is not read any more.
LLAMA_CPP = b"""\
# HELP llamacpp:prompt_tokens_total Number of prompt tokens processed.
# TYPE llamacpp:prompt_tokens_total counter
llamacpp:prompt_tokens_total 1200
# TYPE llamacpp:prompt_tokens_cached_total counter
llamacpp:prompt_tokens_cached_total 900
# TYPE llamacpp:prompt_seconds_total counter
llamacpp:prompt_seconds_total 2.5
# TYPE llamacpp:tokens_predicted_total counter
llamacpp:tokens_predicted_total 3400
# TYPE llamacpp:tokens_predicted_seconds_total counter
llamacpp:tokens_predicted_seconds_total 66.25
# TYPE llamacpp:n_decode_total counter
llamacpp:n_decode_total 1800
# TYPE llamacpp:predicted_tokens_seconds gauge
llamacpp:predicted_tokens_seconds 51.3
# TYPE llamacpp:kv_cache_usage_ratio gauge
llamacpp:kv_cache_usage_ratio 0.7
# TYPE llamacpp:requests_processing gauge
llamacpp:requests_processing 4
# TYPE llamacpp:requests_deferred gauge
llamacpp:requests_deferred 2
"""

# Ollama, docs "List Running Models": GET /api/ps.
OLLAMA = b"""\
{"models": [
  {"name": "mistral:latest", "model": "mistral:latest", "size": 5137025024, "digest": "2ae6f6dd7a3d",
   "details": {"family": "llama", "parameter_size": "7.2B"}, "expires_at": "2024-06-04T14:38:31.83753-07:00",
   "size_vram": 5137025024},
  {"name": "llama3:8b", "model": "llama3:8b", "size": 1, "size_vram": 1}
]}
"""

# KEDA's HTTP add-on, pkg/queue/queue_counts.go: three generations of GET /queue.
INTERCEPTOR_OLDEST = b'{"shop.example.com": 3, "blog.example.com": 0}\n'
INTERCEPTOR_OLD = b'{"shop/web": {"Requests": 3, "Activity": "2024-01-01T00:00:00Z"}, "blog/web": {"Requests": 0}}\n'
INTERCEPTOR = b'{"shop/web": {"Concurrency": 3, "RPS": 1.5}, "blog/web": {"Concurrency": 0, "RPS": 0}}\n'

# The router of the vLLM production stack, src/vllm_router/services/metrics_service: its incoming requests by model, and
# the series of its engines by server, under the engines' own names. So its page is recognised as a page of vLLM.
VLLM_ROUTER = b"""\
# HELP vllm:num_incoming_requests_total Total valid incoming requests to router
# TYPE vllm:num_incoming_requests_total counter
vllm:num_incoming_requests_total{model="m"} 42.0
vllm:num_incoming_requests_total{model="n"} 8.0
# TYPE vllm:num_incoming_requests_created gauge
vllm:num_incoming_requests_created{model="m"} 1.77e+09
# TYPE vllm:num_requests_running gauge
vllm:num_requests_running{server="http://10.0.0.1:8000"} 3.0
# TYPE vllm:num_requests_waiting gauge
vllm:num_requests_waiting{server="http://10.0.0.1:8000"} 1.0
# TYPE vllm:current_qps gauge
vllm:current_qps{server="http://10.0.0.1:8000"} 1.5
# TYPE vllm:healthy_pods_total gauge
vllm:healthy_pods_total{server="http://10.0.0.1:8000"} 1.0
"""

# An endpoint picker with flow control, of the Gateway API inference extension (pkg/epp/metrics).
ENDPOINT_PICKER = b"""\
# HELP inference_extension_flow_control_queue_size [ALPHA] Requests in the queue.
# TYPE inference_extension_flow_control_queue_size gauge
inference_extension_flow_control_queue_size{fairness_id="a",inference_pool="llama",priority="0"} 4
inference_extension_flow_control_queue_size{fairness_id="b",inference_pool="llama",priority="1"} 5
inference_extension_flow_control_queue_size{fairness_id="a",inference_pool="other",priority="0"} 60
# TYPE inference_extension_flow_control_queue_bytes gauge
inference_extension_flow_control_queue_bytes{fairness_id="a",inference_pool="llama",priority="0"} 4096
"""

# SGLang in a pool that only decodes: its queues have names of their own (srt/observability/metrics_collector.py).
SGLANG_DECODE = b"""\
# TYPE sglang:num_running_reqs gauge
sglang:num_running_reqs{engine_type="decode",model_name="m",pp_rank="0",priority="",tp_rank="0"} 3.0
# TYPE sglang:num_queue_reqs gauge
sglang:num_queue_reqs{engine_type="decode",model_name="m",pp_rank="0",priority="",tp_rank="0"} 0.0
# TYPE sglang:num_decode_prealloc_queue_reqs gauge
sglang:num_decode_prealloc_queue_reqs{engine_type="decode",model_name="m",pp_rank="0",priority="",tp_rank="0"} 5.0
# TYPE sglang:num_decode_transfer_queue_reqs gauge
sglang:num_decode_transfer_queue_reqs{engine_type="decode",model_name="m",pp_rank="0",priority="",tp_rank="0"} 7.0
"""

# Triton with the vLLM backend whose gauges are not exported (vllm_backend, src/utils/metrics.py).
TRITON_VLLM = b"""\
# TYPE nv_inference_request_success counter
nv_inference_request_success{model="m",version="1"} 8
# TYPE nv_inference_pending_request_count gauge
nv_inference_pending_request_count{model="m",version="1"} 0
# TYPE vllm:prompt_tokens_total counter
vllm:prompt_tokens_total{model="m",version="1"} 90
# TYPE vllm:generation_tokens_total counter
vllm:generation_tokens_total{model="m",version="1"} 60
# TYPE vllm:time_to_first_token_seconds histogram
vllm:time_to_first_token_seconds_count{model="m",version="1"} 8
vllm:time_to_first_token_seconds_sum{model="m",version="1"} 0.5
vllm:time_to_first_token_seconds_bucket{model="m",version="1",le="0.1"} 7
vllm:time_to_first_token_seconds_bucket{model="m",version="1",le="+Inf"} 8
"""

# Ray Serve LLM (vllm/v1/metrics/ray_wrappers.py): two workers of one node, behind Ray's metrics agent.
RAY = b"".join(
    f"""\
# TYPE ray_vllm_{name} {kind}
ray_vllm_{name}{{ReplicaId="r{worker}",WorkerId="w{worker}",engine="0",model_name="m"{more}}} {value}
""".encode()
    for worker in (1, 2)
    for name, kind, more, value in (
        ("num_requests_running", "gauge", "", 4 * worker),
        ("num_requests_waiting", "gauge", "", 9 * worker),
        ("num_requests_waiting_by_reason", "gauge", ',reason="capacity"', 2 * worker),
        ("num_requests_waiting_by_reason", "gauge", ',reason="deferred"', 7 * worker),
        ("kv_cache_usage_perc", "gauge", "", 0.25 * worker),
        ("request_success_total", "counter", ',finished_reason="stop"', 50 * worker),
        ("request_success_total", "counter", ',finished_reason="abort"', 1000 * worker),
        ("generation_tokens_total", "counter", "", 600 * worker),
        ("prompt_tokens_total", "counter", "", 70 * worker),
        ("request_queue_time_seconds_sum", "counter", "", 1.5 * worker),
        ("request_queue_time_seconds_count", "counter", "", 51 * worker),
        ("time_to_first_token_seconds_bucket", "counter", ',le="+Inf"', 52 * worker),
        ("time_to_first_token_seconds_count", "counter", "", 52 * worker),
        ("inter_token_latency_seconds_bucket", "counter", ',le="+Inf"', 550 * worker),
        ("inter_token_latency_seconds_sum", "counter", "", 5.5 * worker),
        ("inter_token_latency_seconds_count", "counter", "", 550 * worker),
    )
)

# A worker of NVIDIA Dynamo, docs "Metrics". Requests for the state of a worker are not inference requests.
DYNAMO = b"""\
# TYPE dynamo_component_inflight_requests gauge
dynamo_component_inflight_requests{dynamo_component="backend",dynamo_endpoint="generate",dynamo_namespace="n"} 12
dynamo_component_inflight_requests{dynamo_component="backend",dynamo_endpoint="load_metrics",dynamo_namespace="n"} 1
# TYPE dynamo_component_requests_total counter
dynamo_component_requests_total{dynamo_component="backend",dynamo_endpoint="generate",dynamo_namespace="n"} 300
dynamo_component_requests_total{dynamo_component="backend",dynamo_endpoint="load_metrics",dynamo_namespace="n"} 9000
# TYPE dynamo_component_kvstats_gpu_cache_usage_percent gauge
dynamo_component_kvstats_gpu_cache_usage_percent{dynamo_component="backend",dynamo_namespace="n"} 0.75
"""

# A worker of Dynamo with TensorRT-LLM, without enable_iter_perf_stats (docs/observability/metrics_examples).
DYNAMO_TRTLLM = (
    DYNAMO
    + b"""\
# TYPE trtllm_request_success_total counter
trtllm_request_success_total{engine_type="trtllm",finished_reason="length",model_name="m"} 290.0
# TYPE trtllm_prompt_tokens_total counter
trtllm_prompt_tokens_total{engine_type="trtllm",model_name="m"} 1500.0
# TYPE trtllm_generation_tokens_total counter
trtllm_generation_tokens_total{engine_type="trtllm",model_name="m"} 8800.0
# TYPE trtllm_request_queue_time_seconds histogram
trtllm_request_queue_time_seconds_sum{engine_type="trtllm",model_name="m"} 3.5
trtllm_request_queue_time_seconds_count{engine_type="trtllm",model_name="m"} 291.0
# TYPE trtllm_time_to_first_token_seconds histogram
trtllm_time_to_first_token_seconds_bucket{engine_type="trtllm",le="+Inf",model_name="m"} 292.0
trtllm_time_to_first_token_seconds_count{engine_type="trtllm",model_name="m"} 292.0
# TYPE trtllm_time_per_output_token_seconds histogram
trtllm_time_per_output_token_seconds_bucket{engine_type="trtllm",le="+Inf",model_name="m"} 289.0
trtllm_time_per_output_token_seconds_count{engine_type="trtllm",model_name="m"} 289.0
trtllm_time_per_output_token_seconds_sum{engine_type="trtllm",model_name="m"} 4.25
"""
)

# SGLang's server of diffusion models, DiffusionMetricsCollector: requests of a warm-up and errors stand apart.
SGLANG_DIFFUSION = b"""\
# TYPE sglang:diffusion_num_queue_reqs gauge
sglang:diffusion_num_queue_reqs{replica="tcp://a",role="denoiser"} 6.0
# TYPE sglang:diffusion_num_running_reqs gauge
sglang:diffusion_num_running_reqs{replica="tcp://a",role="denoiser"} 1.0
# TYPE sglang:diffusion_requests_total counter
sglang:diffusion_requests_total{is_warmup="false",replica="tcp://a",role="denoiser",status="success"} 40.0
sglang:diffusion_requests_total{is_warmup="false",replica="tcp://a",role="denoiser",status="error"} 500.0
sglang:diffusion_requests_total{is_warmup="true",replica="tcp://a",role="denoiser",status="success"} 3.0
# TYPE sglang:diffusion_queue_time_seconds histogram
sglang:diffusion_queue_time_seconds_count{is_warmup="false",replica="tcp://a",role="denoiser"} 41.0
sglang:diffusion_queue_time_seconds_sum{is_warmup="false",replica="tcp://a",role="denoiser"} 82.0
sglang:diffusion_queue_time_seconds_count{is_warmup="true",replica="tcp://a",role="denoiser"} 3.0
sglang:diffusion_queue_time_seconds_sum{is_warmup="true",replica="tcp://a",role="denoiser"} 1.0
"""

# LightLLM (server/metrics/metrics.py), whose histogram of the time in the queue has a name that ends with _bucket.
LIGHTLLM = b"""\
# TYPE lightllm_queue_size gauge
lightllm_queue_size 8.0
# TYPE lightllm_batch_current_size gauge
lightllm_batch_current_size 5.0
# TYPE lightllm_kv_cache_utilization_ratio gauge
lightllm_kv_cache_utilization_ratio 0.5
# TYPE lightllm_request_count_total counter
lightllm_request_count_total 31.0
# TYPE lightllm_request_success_total counter
lightllm_request_success_total 30.0
# TYPE lightllm_request_generated_tokens histogram
lightllm_request_generated_tokens_sum 3000.0
# TYPE lightllm_request_input_length histogram
lightllm_request_input_length_sum 700.0
# TYPE lightllm_request_queue_duration_bucket histogram
lightllm_request_queue_duration_bucket_bucket{le="+Inf"} 29.0
lightllm_request_queue_duration_bucket_count 29.0
lightllm_request_queue_duration_bucket_sum 14.5
# TYPE lightllm_request_first_token_duration histogram
lightllm_request_first_token_duration_bucket{le="0.5"} 20.0
lightllm_request_first_token_duration_bucket{le="+Inf"} 28.0
lightllm_request_first_token_duration_count 28.0
# TYPE lightllm_request_mean_time_per_token_duration histogram
lightllm_request_mean_time_per_token_duration_bucket{le="+Inf"} 27.0
lightllm_request_mean_time_per_token_duration_count 27.0
lightllm_request_mean_time_per_token_duration_sum 0.75
"""

# A newer LightLLM names its model, and has a gauge of running requests beside that of the batch.
LIGHTLLM_NEW = b"""\
# TYPE lightllm_queue_size gauge
lightllm_queue_size{model_name="m"} 4.0
# TYPE lightllm_batch_current_size gauge
lightllm_batch_current_size{model_name="m"} 7.0
# TYPE lightllm_num_running_reqs gauge
lightllm_num_running_reqs{model_name="m"} 6.0
# TYPE lightllm_request_success counter
lightllm_request_success_total{model_name="m"} 20.0
"""

# TEI (core/src/queue.rs, router/src): counters without a suffix, times in seconds.
TEI = b"""\
# TYPE te_queue_size gauge
te_queue_size 17
# TYPE te_request_count counter
te_request_count{method="single"} 210
# TYPE te_request_success counter
te_request_success{method="single"} 150
te_request_success{method="batch"} 50
# TYPE te_request_queue_duration histogram
te_request_queue_duration_sum 2.5
te_request_queue_duration_count 200
# TYPE te_request_inference_duration histogram
te_request_inference_duration_sum 4.5
te_request_inference_duration_count 201
# TYPE te_batch_next_size histogram
te_batch_next_size_sum 199
te_batch_next_size_count 33
"""

# A worker of Xinference (xinference/core/metrics.py): a chat model, and a model of embeddings.
XINFERENCE = b"""\
# TYPE xinference:model_serve_count gauge
xinference:model_serve_count{model_type="LLM",model_uid="chat",worker_address="10.0.0.1:30001"} 6
xinference:model_serve_count{model_type="embedding",model_uid="embed",worker_address="10.0.0.1:30001"} 2
# TYPE xinference:model_request_limit gauge
xinference:model_request_limit{model_type="LLM",model_uid="chat",worker_address="10.0.0.1:30001"} 32
xinference:model_request_limit{model_type="embedding",model_uid="embed",worker_address="10.0.0.1:30001"} 8
# TYPE xinference:model_request_total counter
xinference:model_request_total{model_type="LLM",model_uid="chat",worker_address="10.0.0.1:30001"} 70
xinference:model_request_total{model_type="embedding",model_uid="embed",worker_address="10.0.0.1:30001"} 500
# TYPE xinference:model_request_errors_total counter
xinference:model_request_errors_total{model_type="LLM",model_uid="chat",worker_address="10.0.0.1:30001"} 3
# TYPE xinference:generate_tokens_total counter
xinference:generate_tokens_total{model_type="LLM",model_uid="chat",worker_address="10.0.0.1:30001"} 9000
# TYPE xinference:output_tokens_total_counter counter
xinference:output_tokens_total_counter{model_type="LLM",model_uid="chat",worker_address="10.0.0.1:30001"} 8800
# TYPE xinference:input_tokens_total_counter counter
xinference:input_tokens_total_counter{model_type="LLM",model_uid="chat",worker_address="10.0.0.1:30001"} 44000
# TYPE xinference:time_to_first_token_seconds histogram
xinference:time_to_first_token_seconds_bucket{le="0.5",model_type="LLM",model_uid="chat"} 40
xinference:time_to_first_token_seconds_bucket{le="+Inf",model_type="LLM",model_uid="chat"} 67
xinference:time_to_first_token_seconds_sum{model_type="LLM",model_uid="chat"} 50.5
xinference:time_to_first_token_seconds_count{model_type="LLM",model_uid="chat"} 67
"""

# The supervisor of Xinference, which exports the cluster and no requests.
XINFERENCE_SUPERVISOR = b"""\
# TYPE xinference:supervisor_uptime_seconds gauge
xinference:supervisor_uptime_seconds 4000
# TYPE xinference:workers_total gauge
xinference:workers_total 2
# TYPE requests_total_counter counter
requests_total_counter{method="POST",path="/v1/chat/completions"} 90
"""

# A Bento of two Services (BentoML, docs "Metrics"): the gateway calls the model, and probes are counted.
BENTOML = b"""\
# TYPE bentoml_service_request_in_progress gauge
bentoml_service_request_in_progress{endpoint="/chat",runner_name="Gateway",service_name="b",service_version="1"} 5.0
bentoml_service_request_in_progress{endpoint="/generate",runner_name="Model",service_name="b",service_version="1"} 4.0
bentoml_service_request_in_progress{endpoint="/readyz",runner_name="Gateway",service_name="b",service_version="1"} 1.0
# TYPE bentoml_service_request_total counter
bentoml_service_request_total{endpoint="/chat",http_response_code="200",runner_name="Gateway"} 60.0
bentoml_service_request_total{endpoint="/chat",http_response_code="503",runner_name="Gateway"} 7.0
bentoml_service_request_total{endpoint="/generate",http_response_code="200",runner_name="Model"} 58.0
bentoml_service_request_total{endpoint="/livez",http_response_code="200",runner_name="Gateway"} 9000.0
# TYPE bentoml_service_request_duration_seconds histogram
bentoml_service_request_duration_seconds_sum{endpoint="/chat",http_response_code="200",runner_name="Gateway"} 90.5
bentoml_service_request_duration_seconds_count{endpoint="/chat",http_response_code="200",runner_name="Gateway"} 60.0
"""

# A new pod of BentoML, to which only probes were sent.
BENTOML_NEW = b"""\
# TYPE bentoml_service_request_in_progress gauge
bentoml_service_request_in_progress{endpoint="/readyz",runner_name="Model",service_name="b",service_version="1"} 1.0
# TYPE bentoml_service_request_total counter
bentoml_service_request_total{endpoint="/readyz",http_response_code="200",runner_name="Model"} 3.0
"""
