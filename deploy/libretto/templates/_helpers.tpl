{{- define "libretto.name" -}}
{{- default .Chart.Name .Values.nameOverride | trunc 63 | trimSuffix "-" -}}
{{- end -}}

{{- define "libretto.fullname" -}}
{{- $name := include "libretto.name" . -}}
{{- if .Values.fullnameOverride -}}
{{- .Values.fullnameOverride | trunc 63 | trimSuffix "-" -}}
{{- else if contains $name .Release.Name -}}
{{- .Release.Name | trunc 63 | trimSuffix "-" -}}
{{- else -}}
{{- printf "%s-%s" .Release.Name $name | trunc 63 | trimSuffix "-" -}}
{{- end -}}
{{- end -}}

{{- define "libretto.selector" -}}
app.kubernetes.io/name: {{ include "libretto.name" . }}
app.kubernetes.io/instance: {{ .Release.Name }}
{{- end -}}

{{/* Helm itself adds app.kubernetes.io/managed-by; `libretto install` prints the same objects without it. */}}
{{- define "libretto.labels" -}}
{{ include "libretto.selector" . }}
app.kubernetes.io/version: {{ .Chart.AppVersion | quote }}
{{- end -}}

{{- define "libretto.serviceAccount" -}}
{{- if .Values.serviceAccount.create -}}
{{- default (include "libretto.fullname" .) .Values.serviceAccount.name -}}
{{- else -}}
{{- required "serviceAccount.name is needed when serviceAccount.create is false" .Values.serviceAccount.name -}}
{{- end -}}
{{- end -}}

{{- define "libretto.image" -}}
{{- if .Values.image.digest -}}
{{ .Values.image.repository }}@{{ .Values.image.digest }}
{{- else -}}
{{ .Values.image.repository }}:{{ .Values.image.tag | default .Chart.AppVersion }}
{{- end -}}
{{- end -}}

{{/* A file that `cargo xtask generate` wrote for a bundled package. */}}
{{- define "libretto.file" -}}
{{- $text := .root.Files.Get (printf "files/%s.%s.yaml" .package .what) -}}
{{- if not $text -}}
{{- fail (printf "packages.bundled: no package %q comes with this chart" .package) -}}
{{- end -}}
{{- $text -}}
{{- end -}}
