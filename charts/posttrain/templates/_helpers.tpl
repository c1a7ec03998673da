{{- define "posttrain.name" -}}
{{- printf "%s-%s" .root.Release.Name .what | trunc 63 | trimSuffix "-" -}}
{{- end -}}

{{- define "posttrain.labels" -}}
app.kubernetes.io/name: posttrain
app.kubernetes.io/instance: {{ .Release.Name }}
app.kubernetes.io/version: {{ .Chart.AppVersion | quote }}
app.kubernetes.io/part-of: posttrain
app.kubernetes.io/managed-by: {{ .Release.Service }}
helm.sh/chart: {{ printf "%s-%s" .Chart.Name .Chart.Version }}
{{- end -}}

{{- /* The image of a purpose: dict "root" $ "image" .Values.images.control */ -}}
{{- define "posttrain.image" -}}
{{- $registry := .root.Values.images.registry | trimSuffix "/" -}}
{{- $repository := .image.repository -}}
{{- if $registry }}{{ $repository = printf "%s/%s" $registry $repository }}{{ end -}}
{{- if .image.digest -}}
{{- printf "%s@%s" $repository .image.digest -}}
{{- else -}}
{{- printf "%s:%s" $repository (.image.tag | default .root.Chart.AppVersion) -}}
{{- end -}}
{{- end -}}

{{- define "posttrain.runner" -}}
{{- .Values.serviceAccount.runner.name | default (include "posttrain.name" (dict "root" . "what" "runner")) -}}
{{- end -}}

{{- define "posttrain.deployer" -}}
{{- .Values.serviceAccount.deployer.name | default (include "posttrain.name" (dict "root" . "what" "deployer")) -}}
{{- end -}}

{{- define "posttrain.cacheClaim" -}}
{{- if .Values.cache.enabled -}}
{{- .Values.cache.existingClaim | default (include "posttrain.name" (dict "root" . "what" "cache")) -}}
{{- end -}}
{{- end -}}

{{- /* What every container of ours may: nothing. */ -}}
{{- define "posttrain.podSecurity" -}}
runAsNonRoot: true
runAsUser: 10001
runAsGroup: 10001
fsGroup: 10001
seccompProfile: {type: RuntimeDefault}
{{- end -}}

{{- define "posttrain.containerSecurity" -}}
allowPrivilegeEscalation: false
readOnlyRootFilesystem: true
capabilities: {drop: [ALL]}
{{- end -}}

{{- /* The deployment as `posttrain deploy` reads it: what the chart knows first, what values say wins. */ -}}
{{- define "posttrain.deployment" -}}
{{- $images := .Values.images -}}
{{- $known := dict
  "schedule_control_image" (include "posttrain.image" (dict "root" . "image" $images.control))
  "schedule_train_image" (include "posttrain.image" (dict "root" . "image" $images.train))
  "schedule_sample_image" (include "posttrain.image" (dict "root" . "image" $images.sample))
  "schedule_secret" .Values.storage.secret -}}
{{- $scheduling := dict "pull_policy" $images.pullPolicy -}}
{{- with include "posttrain.cacheClaim" . }}
{{- $scheduling = merge $scheduling (dict "cache_claim" . "cache_size" $.Values.cache.size) -}}
{{- end }}
{{- if .Values.trainingRuntime.enabled }}
{{- $runtime := printf "TrainingRuntime/%s" (include "posttrain.name" (dict "root" . "what" "nodes")) -}}
{{- $scheduling = merge $scheduling (dict "runtime" $runtime) -}}
{{- end }}
{{- $schedules := dict -}}
{{- range $name, $schedule := .Values.schedules }}
{{- $_ := set $schedules $name (merge (dict) $schedule (dict "service_account" (include "posttrain.runner" $))) -}}
{{- end -}}
release: {{ .Release.Name }}
experiment: {{ .Values.experiment | quote }}
scheduling: {{ merge (dict) .Values.scheduling $scheduling | toJson }}
defaults: {{ if .Values.pipelines }}{{ merge (dict) .Values.defaults $known | toJson }}{{ else }}{}{{ end }}
pipelines: {{ .Values.pipelines | toJson }}
schedules: {{ $schedules | toJson }}
{{- end -}}

{{- /* A pod that talks to Kubeflow Pipelines: dict "root" $ "args" (list …) */ -}}
{{- define "posttrain.client" -}}
{{- $ := .root -}}
serviceAccountName: {{ include "posttrain.deployer" $ }}
automountServiceAccountToken: false
restartPolicy: Never
securityContext: {{- include "posttrain.podSecurity" $ | nindent 2 }}
{{- with $.Values.deploy.nodeSelector }}
nodeSelector: {{- toYaml . | nindent 2 }}
{{- end }}
{{- with $.Values.deploy.tolerations }}
tolerations: {{- toYaml . | nindent 2 }}
{{- end }}
containers:
  - name: posttrain
    image: {{ include "posttrain.image" (dict "root" $ "image" $.Values.images.control) }}
    imagePullPolicy: {{ $.Values.images.pullPolicy }}
    command: [python3, -m, posttrain]
    args: {{ .args | toJson }}
    env:
      - {name: KF_PIPELINES_ENDPOINT, value: {{ $.Values.kubeflow.endpoint | quote }}}
      - {name: POSTTRAIN_KFP_PATIENCE, value: {{ $.Values.deploy.patienceSeconds | quote }}}
      {{- if $.Values.kubeflow.multiUser }}
      - {name: POSTTRAIN_KFP_NAMESPACE, value: {{ $.Release.Namespace | quote }}}
      - {name: KF_PIPELINES_SA_TOKEN_PATH, value: /var/run/secrets/kubeflow/pipelines/token}
      {{- end }}
      - {name: HOME, value: /tmp}
    resources: {{- toYaml $.Values.deploy.resources | nindent 6 }}
    securityContext: {{- include "posttrain.containerSecurity" $ | nindent 6 }}
    volumeMounts:
      - {name: deployment, mountPath: /etc/posttrain, readOnly: true}
      - {name: scratch, mountPath: /tmp}
      {{- if $.Values.kubeflow.multiUser }}
      - {name: token, mountPath: /var/run/secrets/kubeflow/pipelines, readOnly: true}
      {{- end }}
volumes:
  - name: deployment
    configMap: {name: {{ include "posttrain.name" (dict "root" $ "what" "deployment") }}}
  - name: scratch
    emptyDir: {sizeLimit: 256Mi}
  {{- if $.Values.kubeflow.multiUser }}
  - name: token
    projected:
      sources:
        - serviceAccountToken:
            path: token
            audience: {{ $.Values.kubeflow.tokenAudience }}
            expirationSeconds: 7200
  {{- end }}
{{- end -}}

{{- /* A Job of such a pod: dict "root" $ "args" (list …) */ -}}
{{- define "posttrain.job" -}}
{{- $ := .root -}}
backoffLimit: {{ $.Values.deploy.backoffLimit }}
activeDeadlineSeconds: {{ $.Values.deploy.activeDeadlineSeconds }}
ttlSecondsAfterFinished: 86400
# A mistake in the values is answered the same way each time.
podFailurePolicy:
  rules:
    - action: FailJob
      onExitCodes: {containerName: posttrain, operator: In, values: [2]}
template:
  metadata:
    labels: {{- include "posttrain.labels" $ | nindent 6 }}
  spec: {{- include "posttrain.client" . | nindent 4 }}
{{- end -}}
