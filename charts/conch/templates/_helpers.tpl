{{/* The operator's objects have one fixed name: one cluster has one Conch, and the code knows this name. */}}
{{- define "conch.name" -}}
conch-operator
{{- end }}

{{- define "conch.selector" -}}
app.kubernetes.io/name: conch
app.kubernetes.io/component: operator
app.kubernetes.io/instance: {{ .Release.Name }}
{{- end }}

{{/* Labels of an object. Takes a list: the root, the component. */}}
{{- define "conch.labels" -}}
{{- $root := index . 0 -}}
app.kubernetes.io/name: conch
app.kubernetes.io/component: {{ index . 1 }}
app.kubernetes.io/instance: {{ $root.Release.Name }}
app.kubernetes.io/version: {{ $root.Chart.AppVersion | quote }}
app.kubernetes.io/part-of: conch
app.kubernetes.io/managed-by: {{ $root.Release.Service }}
helm.sh/chart: {{ printf "%s-%s" $root.Chart.Name ($root.Chart.Version | replace "+" "_") }}
{{- end }}

{{/* Reference of an image. Takes a list: the root, the image's values. */}}
{{- define "conch.image" -}}
{{- $root := index . 0 -}}
{{- $image := index . 1 -}}
{{- $registry := ternary (printf "%s/" $image.registry) "" (ne $image.registry "") -}}
{{- $digest := ternary (printf "@%s" $image.digest) "" (ne $image.digest "") -}}
{{- printf "%s%s:%s%s" $registry $image.repository ($image.tag | default $root.Chart.AppVersion) $digest -}}
{{- end }}

{{/* What every container of ours may not do. */}}
{{- define "conch.containerSecurityContext" -}}
allowPrivilegeEscalation: false
readOnlyRootFilesystem: true
capabilities:
  drop: [ALL]
{{- end }}

{{/* The image names its user, 65532. It is not repeated here, because some clusters assign one of their own. */}}
{{- define "conch.podSecurityContext" -}}
runAsNonRoot: true
seccompProfile:
  type: RuntimeDefault
{{- end }}

{{/* The pod of a hook: it runs the operator's binary once, as the operator's ServiceAccount. Takes a list: the root, the
     component, the subcommand. */}}
{{- define "conch.hookPod" -}}
{{- $root := index . 0 -}}
{{- $values := $root.Values -}}
metadata:
  labels:
    {{- include "conch.labels" (list $root (index . 1)) | nindent 4 }}
    {{- with $values.podLabels }}
    {{- toYaml . | nindent 4 }}
    {{- end }}
  {{- with $values.podAnnotations }}
  annotations:
    {{- toYaml . | nindent 4 }}
  {{- end }}
spec:
  restartPolicy: Never
  serviceAccountName: {{ include "conch.name" $root }}
  enableServiceLinks: false
  securityContext:
    {{- include "conch.podSecurityContext" $root | nindent 4 }}
  {{- with $values.imagePullSecrets }}
  imagePullSecrets:
    {{- toYaml . | nindent 4 }}
  {{- end }}
  {{- with $values.nodeSelector }}
  nodeSelector:
    {{- toYaml . | nindent 4 }}
  {{- end }}
  {{- with $values.tolerations }}
  tolerations:
    {{- toYaml . | nindent 4 }}
  {{- end }}
  containers:
  - name: {{ index . 1 }}
    image: {{ include "conch.image" (list $root $values.image) }}
    imagePullPolicy: {{ $values.image.pullPolicy }}
    args: [{{ index . 2 }}]
    env:
    - name: CONCH_NAMESPACE
      valueFrom:
        fieldRef:
          fieldPath: metadata.namespace
    - name: CONCH_LOG
      value: {{ $values.log.filter | quote }}
    - name: CONCH_LOG_FORMAT
      value: text
    terminationMessagePolicy: FallbackToLogsOnError
    resources:
      {{- toYaml $values.resources | nindent 6 }}
    securityContext:
      {{- include "conch.containerSecurityContext" $root | nindent 6 }}
{{- end }}
