function NAME --description 'NAME, behind the gate of lmswarm'
    if not command --query lmswarm
        printf '%s\n' 'NAME is not started: lmswarm, the gate before it, is not on PATH (`command NAME` does without)' >&2
        return 127
    end
    command lmswarm run -- NAME $argv
end
