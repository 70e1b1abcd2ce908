{{/*
Everything that is scaled: a YAML list of {component, pool, deployment, scaling}, of those with autoscaling.enabled.
*/}}
{{- define "conclave.scaled" -}}
{{- $fullname := include "conclave.fullname" . -}}
{{- if .Values.gateway.autoscaling.enabled }}
{{- include "conclave.checkScaling" (dict "scaling" .Values.gateway.autoscaling "path" "gateway.autoscaling") }}
- {{ dict "component" "gateway" "deployment" (printf "%s-gateway" $fullname) "scaling" .Values.gateway.autoscaling | toJson }}
{{- end }}
{{- range $component, $group := dict "engine" .Values.engines "expert" .Values.experts }}
{{- range $pool, $own := $group.pools }}
{{- $scaling := (mustMergeOverwrite (deepCopy $group.defaults) $own).autoscaling }}
{{- if $scaling.enabled }}
{{- include "conclave.checkScaling" (dict "scaling" $scaling "path" (printf "%ss.pools.%s.autoscaling" $component $pool)) }}
- {{ dict "component" $component "pool" $pool "deployment" (printf "%s-%s-%s" $fullname $component $pool) "scaling" $scaling | toJson }}
{{- end }}
{{- end }}
{{- end }}
{{- end }}

{{/* Bounds that contradict each other: (dict "scaling" $scaling "path" "where it stands in the values"). */}}
{{- define "conclave.checkScaling" -}}
{{- if gt (int .scaling.min) (int .scaling.max) }}
{{- fail (printf "%s: min %d is above max %d" .path (int .scaling.min) (int .scaling.max)) }}
{{- end }}
{{- $path := .path }}
{{- $max := int .scaling.max }}
{{- range .scaling.schedules }}
{{- if gt (int .replicas) $max }}
{{- fail (printf "%s: a schedule wants %d replicas, and max is %d" $path (int .replicas) $max) }}
{{- end }}
{{- end }}
{{- end }}

{{/*
By what a component is scaled: a YAML list of {metric, target, of}. files/adapter.yaml and files/scaling.yaml say what the metrics are. `of` is
total (so much a pod), level (a share or a time, the mean over the pods), or namespace (one value for all pools).
*/}}
{{- define "conclave.scalingMetrics" -}}
{{- $targets := .scaling.targets -}}
{{- if eq .component "gateway" }}
- {metric: conclave_gateway_inflight, target: {{ $targets.inflight }}, of: total}
- {metric: conclave_gateway_requests_per_second, target: {{ $targets.requestsPerSecond }}, of: total}
{{- else if eq .component "engine" }}
- {metric: conclave_engine_queued_tokens, target: {{ $targets.queuedTokens }}, of: total}
- {metric: conclave_engine_kv_ratio, target: {{ $targets.kvRatio }}, of: level}
{{- else }}
- {metric: conclave_expert_queue_ms, target: {{ $targets.queueMs }}, of: level}
- {metric: conclave_expert_rows_per_second, target: {{ $targets.rowsPerSecond }}, of: total}
{{- end }}
- {metric: conclave_first_token_p99_seconds, target: {{ $targets.firstTokenP99Seconds }}, of: namespace}
{{- with $targets.requestP99Seconds }}
- {metric: conclave_request_p99_seconds, target: {{ . }}, of: namespace}
{{- end }}
{{- end }}

{{/* How fast it goes up and down: autoscaling/v2's behavior. */}}
{{- define "conclave.scalingBehavior" -}}
scaleUp:
  stabilizationWindowSeconds: {{ .Values.autoscaling.scaleUp.stabilizationSeconds }}
  selectPolicy: Max
  policies:
    - {type: Percent, value: {{ .Values.autoscaling.scaleUp.percent }}, periodSeconds: 15}
    - {type: Pods, value: 2, periodSeconds: 15}
scaleDown:
  stabilizationWindowSeconds: {{ .Values.autoscaling.scaleDown.stabilizationSeconds }}
  policies:
    - {type: Pods, value: {{ .Values.autoscaling.scaleDown.pods }}, periodSeconds: {{ .Values.autoscaling.scaleDown.periodSeconds }}}
{{- end }}
