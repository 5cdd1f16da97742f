function global:NAME {
    $lmswarm = Get-Command -Name lmswarm -CommandType Application -ErrorAction SilentlyContinue | Select-Object -First 1
    if (-not $lmswarm) {
        [Console]::Error.WriteLine('NAME is not started: lmswarm, the gate before it, is not on PATH')
        $global:LASTEXITCODE = 127
        return
    }
    if ($MyInvocation.ExpectingInput) { $input | & $lmswarm run '--' NAME @args } else { & $lmswarm run '--' NAME @args }
}
