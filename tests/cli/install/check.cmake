# Installs BUILD under WORK, builds the project beside this file against it, and runs both programs
# with the installed model. cmake -DBUILD=... -DWORK=... -DCXX=... -DFLAGS=... -DGENERATOR=... -P check.cmake
function(run)
  execute_process(COMMAND ${ARGN} RESULT_VARIABLE status OUTPUT_VARIABLE text ERROR_VARIABLE text)
  if(NOT status EQUAL 0)
    list(JOIN ARGN " " command)
    message(FATAL_ERROR "${command}: ${status}\n${text}")
  endif()
endfunction()

file(REMOVE_RECURSE ${WORK})
run(${CMAKE_COMMAND} --install ${BUILD} --prefix ${WORK}/prefix)
run(${CMAKE_COMMAND} -S ${CMAKE_CURRENT_LIST_DIR} -B ${WORK}/build -G ${GENERATOR} -DCMAKE_CXX_COMPILER=${CXX}
    -DCMAKE_CXX_FLAGS=${FLAGS} -DCMAKE_PREFIX_PATH=${WORK}/prefix)
run(${CMAKE_COMMAND} --build ${WORK}/build)
run(${WORK}/build/user ${WORK}/prefix/share/quern/tiny-llama3)
execute_process(COMMAND ${WORK}/prefix/bin/quern demo -n 2 --device cpu --json
                OUTPUT_VARIABLE text COMMAND_ERROR_IS_FATAL ANY)
string(JSON model GET "${text}" model)
cmake_path(NORMAL_PATH WORK)
if(NOT model STREQUAL "${WORK}/prefix/share/quern/tiny-llama3")
  message(FATAL_ERROR "the installed binary used the model ${model}")
endif()
file(REMOVE_RECURSE ${WORK})
