function NAME {
    if ! type -P lmswarm >/dev/null; then
        printf '%s\n' 'NAME is not started: lmswarm, the gate before it, is not on PATH (`command NAME` does without)' >&2
        return 127
    fi
    command lmswarm run -- NAME "$@"
}
