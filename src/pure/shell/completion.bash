
_lmswarm_with_models() {
    local verb=${COMP_WORDS[1]} line=${COMP_LINE:0:COMP_POINT} behind=$2 place word model
    word=${line##*[[:space:]]}
    _lmswarm "$@"
    [[ $COMP_CWORD -ge 2 && ( $verb == ensure || $verb == run ) ]] || return 0
    if [[ $verb == run ]]; then
        for ((place = 2; place < COMP_CWORD; place++)); do
            [[ ${COMP_WORDS[place]} == -- ]] || continue
            COMPREPLY=()
            if declare -F _command_offset >/dev/null; then
                _command_offset $((place + 1))
            elif ((place + 1 == COMP_CWORD)); then
                # macOS has a bash without `mapfile`.
                while IFS= read -r model; do
                    COMPREPLY+=("$model")
                done < <(compgen -c -- "$2")
            fi
            return 0
        done
    fi
    [[ $word != -* ]] || return 0
    case $3 in
        --server)
            COMPREPLY=()
            while IFS= read -r model; do
                [[ $model != "$2"* ]] || COMPREPLY+=("$model")
            done < <(command lmswarm completions --servers 2>/dev/null)
            return 0
            ;;
        FLAGS) return 0 ;;
    esac
    COMPREPLY=()
    case $behind in
        [:@=]) behind= ;;
    esac
    while IFS= read -r model; do
        [[ $model != "$word"* ]] || COMPREPLY+=("${model:${#word}-${#behind}}")
    done < <(command lmswarm completions --models 2>/dev/null)
    if [[ $verb == run && $COMP_CWORD -eq 2 && -n $word ]]; then
        while IFS= read -r model; do
            COMPREPLY+=("$model")
        done < <(compgen -c -- "$2")
    fi
}
