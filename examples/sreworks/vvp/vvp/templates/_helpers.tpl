{{- define "vvp.name" -}}
{{- printf "%s-ververica-platform" .Release.Name | trunc 63 | trimSuffix "-" -}}
{{- end -}}
{{- define "vvp.labels" -}}
app.kubernetes.io/name: ververica-platform
app.kubernetes.io/instance: {{ .Release.Name }}
{{- end -}}
