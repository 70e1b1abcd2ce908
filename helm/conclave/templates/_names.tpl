{{/* Names, labels and images: how all objects are called. */}}

{{- define "conclave.fullname" -}}
{{- $name := default .Chart.Name .Values.nameOverride -}}
{{- if .Values.fullnameOverride -}}
{{ .Values.fullnameOverride | trunc 40 | trimSuffix "-" }}
{{- else if contains $name .Release.Name -}}
{{ .Release.Name | trunc 40 | trimSuffix "-" }}
{{- else -}}
{{ printf "%s-%s" .Release.Name $name | trunc 40 | trimSuffix "-" }}
{{- end -}}
{{- end }}

{{/* Labels that select the pods of a component: (dict "root" $ "component" "engine" "pool" "main"); pool is optional. */}}
{{- define "conclave.selector" -}}
app.kubernetes.io/name: conclave
app.kubernetes.io/instance: {{ .root.Release.Name }}
app.kubernetes.io/component: {{ .component }}
{{- with .pool }}
conclave.dev/pool: {{ . }}
{{- end }}
{{- end }}

{{/* Labels of an object: the selector's, and those that change from version to version. */}}
{{- define "conclave.labels" -}}
{{ include "conclave.selector" . }}
app.kubernetes.io/version: {{ .root.Chart.AppVersion | quote }}
app.kubernetes.io/part-of: conclave
app.kubernetes.io/managed-by: {{ .root.Release.Service }}
helm.sh/chart: {{ printf "%s-%s" .root.Chart.Name .root.Chart.Version }}
{{- end }}

{{/* The image of a component: (dict "root" $ "component" "engine"). */}}
{{- define "conclave.image" -}}
{{- $images := .root.Values.images -}}
{{- $digest := get $images.digests .component -}}
{{ $images.registry }}/conclave-{{ .component }}:{{ default .root.Chart.AppVersion $images.tag }}{{ with $digest }}@{{ . }}{{ end }}
{{- end }}

{{- define "conclave.clusterSecretName" -}}
{{ default (printf "%s-cluster" (include "conclave.fullname" .)) .Values.clusterSecret.existingSecret }}
{{- end }}

{{- define "conclave.clientsTlsSecretName" -}}
{{ default (printf "%s-clients-tls" (include "conclave.fullname" .)) .Values.tls.clients.existingSecret }}
{{- end }}

{{- define "conclave.servicesTlsSecretName" -}}
{{ default (printf "%s-services-tls" (include "conclave.fullname" .)) .Values.tls.services.existingSecret }}
{{- end }}

{{/*
Annotations of the gateway's Service: its own, and those by which an ingress controller knows that the gateway speaks TLS. (Some
look for them at the Service, others at the Ingress: both have them.)
*/}}
{{- define "conclave.serviceAnnotations" -}}
{{- $found := deepCopy .Values.gateway.service.annotations -}}
{{- if and .Values.gateway.ingress.enabled .Values.tls.clients.enabled -}}
{{- $found = mustMergeOverwrite $found .Values.gateway.ingress.backendTlsAnnotations -}}
{{- end -}}
{{ toYaml $found }}
{{- end }}

{{/* The names by which clients may reach the gateway: (list of strings as JSON). */}}
{{- define "conclave.gatewayHosts" -}}
{{- $hosts := list -}}
{{- range $service := list (printf "%s-gateway" (include "conclave.fullname" .)) (printf "%s-gateway-headless" (include "conclave.fullname" .)) -}}
{{- $full := printf "%s.%s" $service $.Release.Namespace -}}
{{- $hosts = concat $hosts (list $service $full (printf "%s.svc" $full) (printf "%s.svc.%s" $full $.Values.clusterDomain)) -}}
{{- end -}}
{{- $hosts = concat $hosts .Values.gateway.allowedHosts .Values.tls.clients.dnsNames -}}
{{- if .Values.gateway.ingress.enabled -}}
{{- $hosts = append $hosts .Values.gateway.ingress.host -}}
{{- end -}}
{{ $hosts | uniq | toJson }}
{{- end }}
