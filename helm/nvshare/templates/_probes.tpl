{{- /* A probe that somebody listens on a unix socket, whose path may have wildcards. */ -}}
{{- define "nvshare.listens" -}}
exec:
  command:
    - python3
    - -ISc
    - |
      import glob, socket, sys
      for path in glob.glob(sys.argv[1]):
          try:
              socket.socket(socket.AF_UNIX).connect(path)
              sys.exit(0)
          except OSError as error:
              print(f"{path}: {error.strerror}", file=sys.stderr)
      sys.exit(f"nobody listens on {sys.argv[1]}")
    - {{ . | quote }}
periodSeconds: 10
timeoutSeconds: 5
{{- end -}}
