#include "textflag.h"

// func rdtsc() uint64
TEXT ·rdtsc(SB), NOSPLIT, $0-8
	LFENCE // not before what precedes it
	RDTSC
	SHLQ $32, DX
	ORQ  DX, AX
	MOVQ AX, ret+0(FP)
	RET

// func spin(n uint32)
TEXT ·spin(SB), NOSPLIT, $0-4
	MOVL n+0(FP), CX
loop:
	DECL CX
	JNE  loop
	RET
