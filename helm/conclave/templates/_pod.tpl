{{/* What the pods of all components have in common. */}}

{{/* The common section of the configuration file: (dict "root" $ "model" $model). */}}
{{- define "conclave.commonSettings" -}}
{{- $fullname := include "conclave.fullname" .root -}}
{{- with .model }}
model: {{ ternary (printf "/model/%s" .file) "/model" (ne .file "") | quote }}
served_name: {{ .name | quote }}
numerics: {{ .numerics }}
{{- end }}
controller_address: {{ $fullname }}-controller:8010
cluster_id: {{ printf "%s-%s" .root.Release.Namespace $fullname }}
cluster_secret_file: /etc/conclave/secret/{{ .root.Values.clusterSecret.key }}
{{- if .root.Values.tls.services.enabled }}
tls_cert_file: /etc/conclave/services-tls/tls.crt
tls_key_file: /etc/conclave/services-tls/tls.key
tls_ca_file: /etc/conclave/services-tls/ca.crt
{{- end }}
drain_seconds: {{ .root.Values.drainSeconds }}
log_level: {{ .root.Values.logLevel }}
log_format: json
{{- end }}

{{/* Pod fields before the containers: (dict "root" $ "spec" $pool "component" "engine" "pool" $name "account" "..."). */}}
{{- define "conclave.podSpec" -}}
{{- $root := .root -}}
serviceAccountName: {{ .account }}
automountServiceAccountToken: {{ default false .token }}
enableServiceLinks: false
terminationGracePeriodSeconds: {{ add $root.Values.drainSeconds 20 }}
securityContext:
  runAsNonRoot: true
  runAsUser: 65532
  runAsGroup: 65532
  fsGroup: 65532
  fsGroupChangePolicy: OnRootMismatch
  seccompProfile: {type: RuntimeDefault}
{{- with $root.Values.images.pullSecrets }}
imagePullSecrets:
{{- range . }}
  - name: {{ . }}
{{- end }}
{{- end }}
{{- with .spec.runtimeClassName }}
runtimeClassName: {{ . }}
{{- end }}
{{- if .spec.priorityClassName }}
priorityClassName: {{ .spec.priorityClassName }}
{{- else if and $root.Values.priorityClasses.create (ne .component "doctor") }}
priorityClassName: {{ include "conclave.fullname" $root }}
{{- end }}
{{- with .spec.nodeSelector }}
nodeSelector: {{- toYaml . | nindent 2 }}
{{- end }}
{{- with .spec.affinity }}
affinity: {{- toYaml . | nindent 2 }}
{{- end }}
tolerations:
{{- range list "node.kubernetes.io/not-ready" "node.kubernetes.io/unreachable" }}
  - {key: {{ . }}, operator: Exists, effect: NoExecute, tolerationSeconds: {{ $root.Values.lostNodeSeconds }}}
{{- end }}
{{- with .spec.tolerations }}
{{- toYaml . | nindent 2 }}
{{- end }}
{{- with .spec.spreadOver }}
topologySpreadConstraints:
{{- range . }}
  - topologyKey: {{ . }}
    maxSkew: 1
    whenUnsatisfiable: ScheduleAnyway
    matchLabelKeys: [pod-template-hash]
    labelSelector:
      matchLabels: {{- include "conclave.selector" $ | nindent 8 }}
{{- end }}
{{- end }}
{{- end }}

{{- define "conclave.containerSecurity" -}}
allowPrivilegeEscalation: false
readOnlyRootFilesystem: true
capabilities: {drop: [ALL]}
{{- end }}

{{/* Probes: (dict "root" $). The port "ops" answers in plain HTTP, with and without TLS; a probe of gRPC
speaks no TLS. */}}
{{- define "conclave.probes" -}}
startupProbe:
  httpGet: {path: /livez, port: ops}
  periodSeconds: 1
  failureThreshold: {{ .root.Values.startSeconds }}
readinessProbe:
  httpGet: {path: /readyz, port: ops}
  periodSeconds: 2
  timeoutSeconds: 2
  failureThreshold: 2
livenessProbe:
  httpGet: {path: /livez, port: ops}
  periodSeconds: 10
  timeoutSeconds: 5
  failureThreshold: 3
{{- end }}

{{/* The pod's own name and address, as settings of a section: (dict "section" "ENGINE"). */}}
{{- define "conclave.identity" -}}
- name: CONCLAVE_CONFIG
  value: /etc/conclave/config/config.yaml
- name: CONCLAVE_{{ .section }}_NAME
  valueFrom: {fieldRef: {fieldPath: metadata.name}}
- name: CONCLAVE_{{ .section }}_ADVERTISE
  valueFrom: {fieldRef: {fieldPath: status.podIP}}
{{- end }}

{{/*
Refuses a pool of another numerics class than the gateway's: no engine would ever ask it. A packed file has its own, which only
the programs know: (dict "root" $ "model" $model "path" "where it stands in the values").
*/}}
{{- define "conclave.checkNumerics" -}}
{{- $classes := dict "auto" "bf16" }}
{{- $one := .root.Values.model }}
{{- $ours := default $one.numerics (get $classes $one.numerics) }}
{{- $theirs := default .model.numerics (get $classes .model.numerics) }}
{{- if and (not $one.file) (not .model.file) (ne $ours $theirs) }}
{{- fail (printf "%s.model.numerics: %s, and model.numerics is %s: pools of one model compute alike; install another release for another class" .path .model.numerics $one.numerics) }}
{{- end }}
{{- end }}

{{/* (dict "root" $ "model" $model); without a model: none is mounted. */}}
{{- define "conclave.mounts" -}}
- {name: config, mountPath: /etc/conclave/config, readOnly: true}
- {name: secret, mountPath: /etc/conclave/secret, readOnly: true}
{{- if .root.Values.tls.services.enabled }}
- {name: services-tls, mountPath: /etc/conclave/services-tls, readOnly: true}
{{- end }}
- {name: state, mountPath: /var/lib/conclave}
- {name: tmp, mountPath: /tmp}
{{- with .model }}
- name: model
  mountPath: /model
  readOnly: true
{{- if eq .delivery "persistentVolumeClaim" }}
{{- with .persistentVolumeClaim.subPath }}
  subPath: {{ . }}
{{- end }}
{{- else if eq .delivery "image" }}
{{- with .image.subPath }}
  subPath: {{ . }}
{{- end }}
{{- end }}
{{- end }}
{{- end }}

{{/* (dict "root" $ "config" "name of the ConfigMap" "model" $model) */}}
{{- define "conclave.volumes" -}}
- name: config
  configMap: {name: {{ .config }}}
- name: secret
  secret: {secretName: {{ include "conclave.clusterSecretName" .root }}, defaultMode: 0440}
{{- if .root.Values.tls.services.enabled }}
- name: services-tls
  secret: {secretName: {{ include "conclave.servicesTlsSecretName" .root }}, defaultMode: 0440}
{{- end }}
- name: state
  emptyDir: {}
- name: tmp
  emptyDir: {}
{{- with .model }}
- name: model
{{- if eq .delivery "initContainer" }}
  emptyDir: {sizeLimit: {{ .initContainer.sizeLimit }}}
{{- else if eq .delivery "persistentVolumeClaim" }}
  persistentVolumeClaim: {claimName: {{ required "model.persistentVolumeClaim.claimName: name an existing claim" .persistentVolumeClaim.claimName }}, readOnly: true}
{{- else if eq .delivery "hostPath" }}
  hostPath: {path: {{ required "model.hostPath.path: name the checkpoint's folder on the nodes" .hostPath.path }}, type: Directory}
{{- else }}
  image: {reference: {{ required "model.image.reference: name the image with the checkpoint" .image.reference }}, pullPolicy: {{ .image.pullPolicy }}}
{{- end }}
{{- end }}
{{- end }}

{{/* The container that copies the model, where it comes so: (dict "root" $ "model" $model). */}}
{{- define "conclave.initContainers" -}}
{{- if eq .model.delivery "initContainer" }}
initContainers:
  - name: model
    image: {{ default (include "conclave.image" (dict "root" .root "component" "model-tales")) .model.initContainer.image }}
    imagePullPolicy: {{ .root.Values.images.pullPolicy }}
    args: [/copy]
    resources:
      requests: {cpu: 50m, memory: 32Mi}
      limits: {memory: 256Mi}
    securityContext: {{- include "conclave.containerSecurity" . | nindent 6 }}
    volumeMounts:
      - {name: model, mountPath: /copy}
{{- end }}
{{- end }}

{{/* A container's resources with the pool's GPUs: (dict "spec" $pool). */}}
{{- define "conclave.resources" -}}
{{- $resources := deepCopy .spec.resources -}}
{{- if gt (int .spec.gpu.count) 0 -}}
{{- $gpus := dict .spec.gpu.resource (int .spec.gpu.count) -}}
{{- $resources = mustMergeOverwrite $resources (dict "limits" $gpus "requests" $gpus) -}}
{{- end -}}
{{ toYaml $resources }}
{{- end }}

{{/* How a Deployment replaces its pods: (dict "strategy" $strategy "path" "where it stands in the values"). */}}
{{- define "conclave.strategy" -}}
{{- $none := list "0" "0%" "00%" "000%" }}
{{- if and (has (toString .strategy.maxSurge) $none) (has (toString .strategy.maxUnavailable) $none) }}
{{- fail (printf "%s: maxSurge and maxUnavailable are both 0, so that no pod could ever be replaced; set one of them to 1 or more" .path) }}
{{- end -}}
type: RollingUpdate
rollingUpdate: {{- toYaml .strategy | nindent 2 }}
{{- end }}
