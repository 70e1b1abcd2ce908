{{/*
The objects of a pool of engines or of expert workers: (dict "root" $ "component" "engine" "group" "engines" "pool" $name "own" $values).
Ports are the component's first and 1000 above it.
*/}}
{{- define "conclave.pool" -}}
{{- $root := .root }}
{{- $component := .component }}
{{- $fullname := include "conclave.fullname" $root }}
{{- $spec := mustMergeOverwrite (deepCopy (get $root.Values .group).defaults) .own }}
{{- $model := mustMergeOverwrite (deepCopy $root.Values.model) $spec.model }}
{{- include "conclave.checkNumerics" (dict "root" $root "model" $model "path" (printf "%s.pools.%s" .group .pool)) }}
{{- $name := printf "%s-%s-%s" $fullname $component .pool }}
{{- $labels := dict "root" $root "component" $component "pool" .pool }}
{{- $pod := dict "root" $root "component" $component "pool" .pool "spec" $spec "account" $fullname }}
{{- $mounted := dict "root" $root "model" $model "config" $name }}
{{- $port := ternary 8020 8030 (eq $component "engine") }}
{{- $own := dict "listen" (printf "0.0.0.0:%d" $port) "ops_listen" (printf "0.0.0.0:%d" (add $port 1000)) }}
{{- $section := dict $component (merge $own $spec.settings) }}
{{- $settings := printf "%s\n%s" (include "conclave.commonSettings" $mounted) (toYaml $section) }}
---
apiVersion: v1
kind: ConfigMap
metadata:
  name: {{ $name }}
  labels: {{- include "conclave.labels" $labels | nindent 4 }}
data:
  config.yaml: |
    {{- $settings | trim | nindent 4 }}
---
apiVersion: apps/v1
kind: Deployment
metadata:
  name: {{ $name }}
  labels: {{- include "conclave.labels" $labels | nindent 4 }}
spec:
  {{- if not $spec.autoscaling.enabled }}
  replicas: {{ $spec.replicas }}
  {{- end }}
  progressDeadlineSeconds: {{ $root.Values.rolloutSeconds }}
  strategy: {{- include "conclave.strategy" (dict "strategy" $spec.strategy "path" (printf "%s.pools.%s.strategy" .group .pool)) | nindent 4 }}
  selector:
    matchLabels: {{- include "conclave.selector" $labels | nindent 6 }}
  template:
    metadata:
      labels:
        {{- include "conclave.selector" $labels | nindent 8 }}
        {{- with $root.Values.podLabels }}{{ toYaml . | nindent 8 }}{{ end }}
      annotations:
        checksum/config: {{ $settings | sha256sum }}
        {{- with $root.Values.podAnnotations }}{{ toYaml . | nindent 8 }}{{ end }}
    spec:
      {{- include "conclave.podSpec" $pod | nindent 6 }}
      {{- include "conclave.initContainers" $mounted | nindent 6 }}
      containers:
        - name: {{ $component }}
          image: {{ include "conclave.image" $labels }}
          imagePullPolicy: {{ $root.Values.images.pullPolicy }}
          env: {{- include "conclave.identity" (dict "section" (upper $component)) | nindent 12 }}
          ports:
            - {name: grpc, containerPort: {{ $port }}}
            - {name: ops, containerPort: {{ add $port 1000 }}}
          resources: {{- include "conclave.resources" (dict "spec" $spec) | nindent 12 }}
          securityContext: {{- include "conclave.containerSecurity" $root | nindent 12 }}
          {{- include "conclave.probes" $labels | nindent 10 }}
          volumeMounts: {{- include "conclave.mounts" $mounted | nindent 12 }}
      volumes: {{- include "conclave.volumes" $mounted | nindent 8 }}
{{ end }}
