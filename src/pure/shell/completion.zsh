_lmswarm_models() {
    local -a models
    models=(${(f)"$(command lmswarm completions --models 2>/dev/null)"})
    compadd -a models
}

_lmswarm_servers() {
    local -a servers
    servers=(${(f)"$(command lmswarm completions --servers 2>/dev/null)"})
    compadd -a servers
}

_lmswarm_words() {
    local dashes=${words[(i)--]}
    if (( dashes < CURRENT )); then
        shift $dashes words
        (( CURRENT -= dashes ))
        _normal
    elif (( CURRENT == 1 )); then
        _alternative 'models:model:_lmswarm_models' 'commands:command:_command_names -e'
    elif (( $+commands[$words[1]] )); then
        _normal
    else
        _lmswarm_models
    fi
}
